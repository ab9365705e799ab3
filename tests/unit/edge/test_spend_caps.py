"""The caps that auth names are those that billing hears."""

from services.edge.spending.spend_caps import SpendCap, caps_of, to_wire
from tollbridge.auth.v1 import auth_pb2
from tollbridge.billing.v1 import billing_pb2


def test_a_keys_and_its_customers_cap_each_go_under_their_owners_name() -> None:
    """And none where there is none."""
    key, customer = auth_pb2.SpendCap(amount_nano_usd=5, per="day"), auth_pb2.SpendCap(amount_nano_usd=9, per="total")
    reply = auth_pb2.AuthorizeResponse(customer_id="c", key_id="k", spend_cap=key, customer_spend_cap=customer)
    caps = caps_of(reply)
    assert caps == (
        SpendCap(owner="key:k", per="day", amount_nano_usd=5),
        SpendCap(owner="customer:c", per="total", amount_nano_usd=9),
    )
    assert to_wire(caps)[0] == billing_pb2.SpendCap(owner="key:k", per="day", amount_nano_usd=5)
    assert caps_of(auth_pb2.AuthorizeResponse(customer_id="c", key_id="k")) == ()
