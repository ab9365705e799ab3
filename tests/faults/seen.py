"""What clients saw, and whether their receipts agree with it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

PAID = ("complete", "client_gone")
NOTICED_US = 1_000_000
"""What a provider ends so long after a client has left is no complete answer of that client's."""


@dataclass(frozen=True, kw_only=True)
class Told:
    """One answer under an idempotency key: the request id that it names, whether it is whole, and its bytes."""

    request_id: str
    whole: bool
    content: bytes


@dataclass(frozen=True, kw_only=True)
class Seen:
    """By request id. `delivered` counts the pieces that a client had received when it left. `shortened` ended as
    `length` because the route's total time was over, `answered` came whole, `refused` came with an error, and of
    `stayed` the client did not leave; `left_at_us` is when one did, who will not ask again. `lossy` is a
    network that may lose what the provider sends last.

    `told` has the answers under each idempotency key, in their order. `painted` are tasks by their number of images.
    `credited` is what each customer, by their key, was given in USD, where it is known.
    """

    delivered: Mapping[str, int] = field(default_factory=dict)
    shortened: Iterable[str] = ()
    answered: Iterable[str] = ()
    refused: Iterable[str] = ()
    stayed: Iterable[str] = ()
    left_at_us: Mapping[str, int] = field(default_factory=dict)
    lossy: bool = False
    told: Mapping[str, Sequence[Told]] = field(default_factory=dict)
    painted: Mapping[str, int] = field(default_factory=dict)
    credited: Mapping[str, Decimal] = field(default_factory=dict)

    @property
    def run_again(self) -> set[str]:
        """Requests that may have run more than once: when who ran them died, or its provider's answer was lost."""
        return {each.request_id for answers in self.told.values() for each in answers}


def check_seen(receipts: Mapping[str, Mapping[str, Any]], seen: Seen) -> list[str]:
    """An answer that came whole is complete, an error costs nothing, and who stayed has not left.

    A stream that just broke says nothing: its edge may have died between its end in the spool and the last bytes.
    """
    found = [line for key, answers in seen.told.items() for line in _check_told(receipts, key, answers)]
    lost = [name for name in seen.painted if receipts.get(name, {}).get("ended") != "complete"]
    found += [f"{name}: its images came, and its receipt says otherwise" for name in lost]
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


def check_left(
    receipts: Mapping[str, Mapping[str, Any]], left_at_us: Mapping[str, int], finished_at_us: Mapping[str, int]
) -> list[str]:
    """Who left long before their provider had finished got no complete answer, also from an edge that was stopped."""
    return [
        f"{name}: complete, though its client left {finished_at_us[name] - left_us} µs before its provider's end"
        for name, left_us in left_at_us.items()
        if finished_at_us.get(name, 0) - left_us > NOTICED_US and receipts.get(name, {}).get("ended") == "complete"
    ]


def _check_told(receipts: Mapping[str, Mapping[str, Any]], key: str, answers: Sequence[Told]) -> list[str]:
    """One key is one charge, and one answer for ever."""
    found = []
    charges = {each.request_id: Decimal(receipts.get(each.request_id, {}).get("charge", 0)) for each in answers}
    charged = sorted(name for name, charge in charges.items() if charge)
    if len(charged) > 1:
        found.append(f"key {key}: several requests are charged: {charged}")
    whole = [each for each in answers if each.whole]
    if len({(each.request_id, each.content) for each in whole}) > 1:
        names = sorted({each.request_id for each in whole})
        found.append(f"key {key}: {len(whole)} whole answers differ, of {names}")
    for each in whole[:1]:
        ended = receipts.get(each.request_id, {}).get("ended")
        if ended not in PAID or each.request_id not in charged:
            found.append(f"{each.request_id}: came whole under a key, and its receipt says {ended!r}, or nothing paid")
    return found
