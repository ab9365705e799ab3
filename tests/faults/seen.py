"""What clients saw, and whether their receipts agree with it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Seen:
    """By request id. `delivered` counts the pieces that a client had received when it left. `shortened` ended as
    `length` because the route's total time was over, `answered` came whole, `refused` came with an error, and of
    `stayed` the client did not leave. `lossy` is a network that may lose what the provider sends last."""

    delivered: Mapping[str, int] = field(default_factory=dict)
    shortened: Iterable[str] = ()
    answered: Iterable[str] = ()
    refused: Iterable[str] = ()
    stayed: Iterable[str] = ()
    lossy: bool = False


def check_seen(receipts: Mapping[str, Mapping[str, Any]], seen: Seen) -> list[str]:
    """An answer that came whole is complete, an error costs nothing, and who stayed has not left.

    A stream that just broke says nothing: its edge may have died between its end in the spool and the last bytes.
    """
    found = []
    for request_id in seen.answered:
        receipt = receipts.get(request_id)
        if receipt is None or receipt.get("ended") != "complete":
            found.append(f"{request_id}: came whole, and its receipt says {(receipt or {}).get('ended')!r}")
    for request_id in seen.refused:
        charge = Decimal(receipts.get(request_id, {}).get("charge", 0))
        if charge:
            found.append(f"{request_id}: ended with an error and was charged {charge}")
    gone = [name for name in seen.stayed if receipts.get(name, {}).get("ended") == "client_gone"]
    return found + [f"{name}: its client has not left, whatever the receipt says" for name in gone]
