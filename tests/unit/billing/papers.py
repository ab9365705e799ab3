"""A receipt with something in every field, made as billing makes it, and keys to sign it with."""

from typing import Any
from uuid import UUID

import msgspec

from pricing.charge import charge_nano_usd
from pricing.prices import PriceVersion, Rates
from pricing.tokens import Tokens, Units
from services.billing.receipts import receipt_document
from services.billing.receipts.receipt_store import Line, Movement
from services.billing.receipts.signatures import SigningKey
from tollbridge.usage.v1 import usage_pb2

KEY = SigningKey(bytes(range(32)))
OTHER_KEY = SigningKey(bytes(32))
KEYS = {KEY.public.id: KEY.public}
REQUEST = UUID("01938f5a-0000-7000-8000-000000000001")
PRICE = PriceVersion(
    rates=Rates(input=270_000_001, cached_input=27_000_000, output=1_100_000_000, per_request=5),
    cost=Rates(input=200_000_000, output=1_000_000_000),
    markup_ppm=1_300_000,
)
TOKENS = Tokens(input=1234, cached_input=77, output=321, reasoning=20)
UNITS = Units(requests=1)


def usage(price: PriceVersion = PRICE, **changes: Any) -> usage_pb2.UsageRecorded:
    """A finished request of TOKENS."""
    reported = changes.get("provider_reported_cost_nano_usd", -1)
    fields: dict[str, Any] = {
        "request_id": str(REQUEST),
        "kind": usage_pb2.USAGE_KIND_CHARGE,
        "customer_id": "customer-1",
        "key_id": "key-1",
        "price_version": price.id,
        "tokens": usage_pb2.Tokens(**msgspec.structs.asdict(TOKENS)),
        "units": usage_pb2.Units(**msgspec.structs.asdict(UNITS)),
        "charge_nano_usd": charge_nano_usd(
            TOKENS, UNITS, price, reported_cost_nano_usd=None if reported == -1 else reported
        ),
        "provider_reported_cost_nano_usd": -1,
        "provider_cost_nano_usd": 568_000,
        "evidence": usage_pb2.EVIDENCE_PROVIDER,
        "ended": usage_pb2.ENDED_CLIENT_GONE,
        "policy": "drain",
        "model": "mädel",
        "operation": "chat",
        "stream": True,
        "http_status": 200,
        "provider_id": "alpha",
        "provider_account_id": "alpha-a",
        "provider_model": "upstream",
        "generation_id": "gen-1",
        "latency_ms": 1200,
        "first_byte_ms": 90,
        "started_at_us": 1_732_000_000_000_001,
    }
    return usage_pb2.UsageRecorded(**{**fields, **changes})


def document(
    event: usage_pb2.UsageRecorded | None = None,
    *,
    price: PriceVersion | None = PRICE,
    overage: int = 0,
    refunded: int = 0,
) -> dict[str, Any]:
    """The receipt of an event, not signed yet."""
    event = event or usage()
    taken = event.charge_nano_usd - overage
    account = "credits:customer-1"
    moves = [
        ("charge", account, "revenue", taken),
        ("charge", "overage_loss", "revenue", overage),
        ("refund", "revenue", account, refunded),
    ]
    movements = [
        Movement(
            request_id=REQUEST,
            id=UUID(int=number),
            debit=debit,
            credit=credit,
            amount_nano_usd=amount,
            kind=kind,
            created_at_us=1_732_000_001_000_000,
        )
        for number, (kind, debit, credit, amount) in enumerate(moves, 1)
        if amount
    ]
    line = Line(
        request_id=REQUEST,
        customer_id="customer-1",
        recorded=event.SerializeToString(),
        taken_nano_usd=taken,
        overage_nano_usd=overage,
        refunded_nano_usd=refunded,
    )
    return receipt_document.settled(line, event, price, movements)
