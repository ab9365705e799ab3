"""Spend caps as other services send them."""

import re
import time
from collections.abc import Sequence
from uuid import UUID

from chassis.errors import Code, TollbridgeError
from services.billing.holding.caps import Cap, Per, cap_id, cap_of
from services.billing.ledger import MAX_AMOUNT
from tollbridge.billing.v1 import billing_pb2 as pb

MAX_CAPS = 8
"""Of one request: its key's and its customer's are two."""
MAX_ASKED = 500
_OWNER = re.compile(r"(key|customer):[!-~]{1,64}")
_UUID7 = 7


def caps_of(messages: Sequence[pb.SpendCap], *, request_id: UUID | None) -> tuple[Cap, ...]:
    """The caps that bind a request. Raises INVALID_REQUEST."""
    if not messages:
        return ()
    if request_id is None or request_id.version != _UUID7:
        raise _invalid("request_id", "must be a UUIDv7: it says in which period a capped request counts")
    if len(messages) > MAX_CAPS:
        raise _invalid("caps", f"at most {MAX_CAPS}")
    caps: dict[str, Cap] = {}
    for message in messages:
        if not 1 <= message.amount_nano_usd <= MAX_AMOUNT:
            raise _invalid("caps", f"must have amounts from 1 to {MAX_AMOUNT}")
        cap = cap_of(_owner(message), _per(message), message.amount_nano_usd, request_id=request_id)
        caps[cap.id] = min(cap, caps.get(cap.id, cap), key=lambda each: each.amount_nano_usd)
    return tuple(caps.values())


def ids_of_now(messages: Sequence[pb.SpendCap]) -> list[str]:
    """The accounts that count for requests that begin now. Raises INVALID_REQUEST."""
    if len(messages) > MAX_ASKED:
        raise _invalid("caps", f"at most {MAX_ASKED}")
    now_ms = time.time_ns() // 1_000_000
    return [cap_id(_owner(message), _per(message), at_ms=now_ms) for message in messages]


def _owner(message: pb.SpendCap) -> str:
    if _OWNER.fullmatch(message.owner) is None:
        raise _invalid("caps", "must each have an owner, key:<id> or customer:<id>")
    return message.owner


def _per(message: pb.SpendCap) -> Per:
    for per in Per:
        if message.per == per:
            return per
    raise _invalid("caps", "must each be per day, month or total")


def _invalid(name: str, why: str) -> TollbridgeError:
    return TollbridgeError(Code.INVALID_REQUEST, f"{name} {why}", details={"param": name})
