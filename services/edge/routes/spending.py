"""`spend_cap` of keys and customers in JSON: what it allows, and what was spent of it in the period of now."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Literal, TypedDict

import msgspec

from chassis.errors import Code, TollbridgeError
from chassis.pipe import PipeClient
from pricing.prices import usd_text
from services.edge.http.json_http import amount
from services.edge.openapi.description import USD
from services.edge.spending.spend_caps import SpendCap, to_wire
from tollbridge.auth.v1 import auth_pb2
from tollbridge.billing.v1 import billing_pb2

TIMEOUT_S = 1.0
MAX_CAP_NANO_USD = 1 << 53


class SpendCapBody(msgspec.Struct, frozen=True, kw_only=True):
    """`spend_cap` of a body."""

    amount_usd: Decimal
    per: Literal["day", "month", "total"]


class ShownCap(TypedDict):
    """A spend cap, and what was spent of it in the period of now; null while that is not known."""

    amount_usd: USD
    per: str
    spent_usd: USD | None


def cap_message(body: SpendCapBody | None) -> auth_pb2.SpendCap | None:
    """The cap as auth takes it. Raises INVALID_REQUEST."""
    if body is None:
        return None
    value = amount(body.amount_usd, param="spend_cap.amount_usd")
    if not 0 < value <= MAX_CAP_NANO_USD:
        message = f"spend_cap.amount_usd must be more than 0 and at most {usd_text(MAX_CAP_NANO_USD)}."
        raise TollbridgeError(Code.INVALID_REQUEST, message, details={"param": "spend_cap.amount_usd"})
    return auth_pb2.SpendCap(amount_nano_usd=value, per=body.per)


def cap_of(owner: str, holder: auth_pb2.ApiKey | auth_pb2.Customer) -> SpendCap | None:
    """The cap of a key or customer under its owner's name."""
    if not holder.HasField("spend_cap"):
        return None
    return SpendCap(owner=owner, per=holder.spend_cap.per, amount_nano_usd=holder.spend_cap.amount_nano_usd)


async def shown_caps(billing: PipeClient, caps: Sequence[SpendCap | None]) -> list[ShownCap | None]:
    """Each cap as it is shown, in order. `spent_usd` is null while billing can't be asked: keys are listed anyhow."""
    asked = [cap for cap in caps if cap is not None]
    spent: list[int | None] = [None] * len(asked)
    if asked:
        try:
            reply = await billing.call(
                "GetSpend",
                billing_pb2.GetSpendRequest(caps=to_wire(asked)),
                billing_pb2.GetSpendResponse,
                timeout_s=TIMEOUT_S,
            )
            spent = [each.spent_nano_usd for each in reply.spends]
        except TollbridgeError as error:
            if error.code not in (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.OVERLOADED):
                raise
    following = iter(spent)
    return [None if cap is None else _shown(cap, next(following)) for cap in caps]


def _shown(cap: SpendCap, spent_nano_usd: int | None) -> ShownCap:
    return {
        "amount_usd": usd_text(cap.amount_nano_usd),
        "per": cap.per,
        "spent_usd": None if spent_nano_usd is None else usd_text(spent_nano_usd),
    }
