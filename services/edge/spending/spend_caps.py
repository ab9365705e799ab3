"""Spend caps on their way from auth, which tells them with a key, to billing, which enforces them."""

import dataclasses
from collections.abc import Iterable

from tollbridge.auth.v1 import auth_pb2
from tollbridge.billing.v1 import billing_pb2


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SpendCap:
    """What a key or customer (`owner` is "key:<id>" or "customer:<id>") may spend per day, month or in total."""

    owner: str
    per: str
    amount_nano_usd: int


def key_owner(key_id: str) -> str:
    """A key's name in caps."""
    return f"key:{key_id}"


def customer_owner(customer_id: str) -> str:
    """A customer's name in caps."""
    return f"customer:{customer_id}"


def caps_of(reply: auth_pb2.AuthorizeResponse) -> tuple[SpendCap, ...]:
    """The caps that bind a key's requests: its own and its customer's."""
    found = []
    if reply.HasField("spend_cap"):
        found.append(_cap(key_owner(reply.key_id), reply.spend_cap))
    if reply.HasField("customer_spend_cap"):
        found.append(_cap(customer_owner(reply.customer_id), reply.customer_spend_cap))
    return tuple(found)


def to_wire(caps: Iterable[SpendCap]) -> list[billing_pb2.SpendCap]:
    """As billing takes them."""
    return [billing_pb2.SpendCap(owner=cap.owner, per=cap.per, amount_nano_usd=cap.amount_nano_usd) for cap in caps]


def _cap(owner: str, cap: auth_pb2.SpendCap) -> SpendCap:
    return SpendCap(owner=owner, per=cap.per, amount_nano_usd=cap.amount_nano_usd)
