"""A receipt as customers see it: everything that makes one request's charge, as a JSON document. Pure.

Amounts are decimal strings in USD, rates too (per million tokens or characters, per minute, or per piece); every number
is an integer. What is charged follows from `tokens`, `units` and `price` alone, so that a reader with this document
needs nobody to check it: `receipt_check` does.
"""

import dataclasses
import datetime
from collections.abc import Mapping, Sequence

from msgspec.structs import asdict

from pricing.charge import Calculation, ChargeOutOfRange, calculation
from pricing.prices import PriceVersion, Rates, usd_text
from pricing.tokens import ImplausibleUsage, Tokens, Units
from services.billing.charges import ENDED
from services.billing.receipts.receipt_store import Line, Movement
from tollbridge.usage.v1 import usage_pb2

BY_LIST, BY_REPORTED_COST, BY_OPERATOR = "list_price", "reported_cost", "operator"
"""What a charge goes by. An operator decides where no price can: an event that billing had set aside."""

LATEST_US = 4_102_444_800_000_000
"""The year 2100."""

_EVIDENCE = {usage_pb2.EVIDENCE_PROVIDER: "provider", usage_pb2.EVIDENCE_COUNTED: "counted"}

Document = dict[str, object]


def unsettled(usage: usage_pb2.UsageRecorded) -> Document:
    """What is known of a request before its event has come."""
    return {
        "id": usage.request_id,
        "object": "request",
        "created_at": rfc3339(usage.started_at_us),
        "customer_id": usage.customer_id,
        "key_id": usage.key_id,
        "settled": False,
    }


def settled(
    line: Line, usage: usage_pb2.UsageRecorded, price: PriceVersion | None, movements: Sequence[Movement]
) -> Document:
    """A settled request. `price` is None for a void, and where no known price made the charge."""
    tokens = _tokens(usage.tokens)
    return unsettled(usage) | {
        "settled": True,
        "model": usage.model,
        "operation": usage.operation,
        "status": usage.http_status,
        "stream": usage.stream,
        "usage": _totals(tokens),
        "tokens": asdict(tokens),
        "units": asdict(_units(usage.units)),
        "price": _price(usage.price_version, price),
        "provider": _provider(usage),
        "calculation": _calculation(usage, price),
        "overage": usd_text(line.overage_nano_usd),
        "refunded": usd_text(line.refunded_nano_usd),
        "charge": usd_text(line.paid_nano_usd),
        "evidence": _EVIDENCE.get(usage.evidence),
        "implausible": usage.implausible,
        "ended": ENDED.get(usage.ended),
        "policy": usage.policy or None,
        "latency_ms": usage.latency_ms,
        "first_byte_ms": usage.first_byte_ms if usage.first_byte_ms >= 0 else None,
        "transfers": [_transfer(movement) for movement in movements],
    }


def rfc3339(microseconds: int) -> str | None:
    """A time in UTC to the microsecond, None for 0 and for what is no time: nobody checks it when it is recorded."""
    if not 0 < microseconds < LATEST_US:
        return None
    moment = datetime.datetime.fromtimestamp(microseconds // 1_000_000, tz=datetime.UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{microseconds % 1_000_000:06d}Z"


def priced(usage: usage_pb2.UsageRecorded, price: PriceVersion) -> Calculation:
    """How the price makes the event's charge. Raises ChargeOutOfRange, ImplausibleUsage."""
    reported = usage.provider_reported_cost_nano_usd
    return calculation(
        _tokens(usage.tokens),
        _units(usage.units),
        price,
        reported_cost_nano_usd=None if reported == -1 else reported,
    )


def _calculation(usage: usage_pb2.UsageRecorded, price: PriceVersion | None) -> Mapping[str, object] | None:
    """None for a void. `charge` = ceil(`numerator` / `denominator`) nano-USD."""
    if usage.kind != usage_pb2.USAGE_KIND_CHARGE:
        return None
    decided: Document = {"basis": BY_OPERATOR, "charge": usd_text(usage.charge_nano_usd)}
    if price is None:
        return decided
    try:
        made = priced(usage, price)
    except (ChargeOutOfRange, ImplausibleUsage):
        return decided
    if made.charge_nano_usd != usage.charge_nano_usd:
        return decided
    return {
        "basis": BY_REPORTED_COST if made.as_reported else BY_LIST,
        "numerator": str(made.numerator),
        "denominator": str(made.denominator),
        "rounding": "up to the nano-dollar, once",
        "charge": usd_text(made.charge_nano_usd),
    }


def _price(version: str, price: PriceVersion | None) -> Document:
    if price is None:
        return {"version": version or None}
    return {
        "version": version,
        "currency": "USD",
        "rates": _rates(price.rates),
        "provider_rates": _rates(price.cost),
        "markup_ppm": price.markup_ppm,
        "cost_reported": price.cost_reported,
    }


def _rates(rates: Rates) -> dict[str, str]:
    """The rates that are not 0."""
    return {name: usd_text(rate) for name, rate in dataclasses.asdict(rates).items() if rate}


def _tokens(message: usage_pb2.Tokens) -> Tokens:
    return Tokens(**{name: getattr(message, name) for name in Tokens.__struct_fields__})


def _units(message: usage_pb2.Units) -> Units:
    return Units(**{name: getattr(message, name) for name in Units.__struct_fields__})


def _totals(tokens: Tokens) -> Document:
    return {
        "prompt_tokens": tokens.prompt,
        "cached_tokens": tokens.cached_input,
        "cache_write_tokens": tokens.cache_write + tokens.cache_write_1h,
        "completion_tokens": tokens.completion,
        "reasoning_tokens": tokens.reasoning,
        "total_tokens": tokens.prompt + tokens.completion,
    }


def _provider(usage: usage_pb2.UsageRecorded) -> Document:
    reported = usage.provider_reported_cost_nano_usd
    return {
        "id": usage.provider_id,
        "account": usage.provider_account_id,
        "model": usage.provider_model,
        "generation_id": usage.generation_id or None,
        "cost": usd_text(reported if reported >= 0 else usage.provider_cost_nano_usd),
        "reported_cost": usd_text(reported) if reported != -1 else None,
    }


def _transfer(movement: Movement) -> Document:
    return {
        "id": str(movement.id),
        "kind": movement.kind,
        "debit": movement.debit,
        "credit": movement.credit,
        "amount": usd_text(movement.amount_nano_usd),
        "created_at": rfc3339(movement.created_at_us),
    }
