"""`ledger replay`: rebuilds balances from what left on LEDGER and came on USAGE, and compares.

Where `reconcile` asks whether the ledger agrees with itself, this asks whether it agrees with copies that nobody can
change any more. The rebuild is kept in memory: a few numbers for each message. When a stream has dropped its beginning,
by age or because it was full, or was made anew after the bus lost it, `complete` is false, balances can't be rebuilt,
and only what is younger than that is compared. Events that came by RPC or from an operator are on no stream; they are
counted, and their transfers are compared all the same.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Mapping
from uuid import UUID

import msgspec
from google.protobuf.message import DecodeError

from services.billing.ledger import TransferKind, credits_account
from tollbridge.billing.v1 import billing_pb2
from tollbridge.usage.v1 import usage_pb2

MAX_NAMED = 100
_MARGIN_US = 60_000_000
"""Transactions that began before the first one kept may have left after it."""
_NEVER_US = 1 << 63

Movement = tuple[str, str, int, str, str, int]
"""debit, credit, amount, kind, event_id, leg"""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What was compared and the first MAX_NAMED of what differs, each named in a sentence. Amounts in nano-USD."""

    clean: bool
    complete: bool
    transfers: int
    balances: int
    usage_events: int
    waiting: int
    on_no_stream: int
    differences: int
    examples: list[str]


class Lost(msgspec.Struct, frozen=True, kw_only=True):
    """A transfer that left and that the ledger doesn't have, as after a restore to an earlier time."""

    id: str
    kind: str
    debit: str
    credit: str
    amount_nano_usd: int
    event_id: str


@dataclasses.dataclass(slots=True)
class Streams:
    """Both streams, each transfer and charge once. `applied_until`: how far the consumer is done.

    `complete`: none has dropped its beginning; `made_us`: when LEDGER was made, in microseconds since the epoch.
    `strange` are the messages of LEDGER that billing can't have sent.
    """

    complete: bool = True
    applied_until: int = 0
    made_us: int = 0
    moved: dict[UUID, Movement] = dataclasses.field(default_factory=dict)
    strange: list[int] = dataclasses.field(default_factory=list)
    first_us: int = 0
    charges: dict[UUID, set[int]] = dataclasses.field(default_factory=lambda: defaultdict(set))
    places: dict[UUID, int] = dataclasses.field(default_factory=dict)

    def add_ledger(self, data: bytes, *, place: int) -> None:
        """One message of LEDGER."""
        try:
            events = billing_pb2.LedgerTransferredBatch.FromString(data).events
            moved = [(UUID(event.transfer.id), event.transfer, event.event_id, event.leg) for event in events]
        except (DecodeError, ValueError):
            self.strange.append(place)
            return
        for id_, it, event_id, leg in moved:
            self.first_us = self.first_us or it.created_at_us
            self.moved[id_] = (it.debit, it.credit, it.amount_nano_usd, it.kind, event_id, leg)

    def add_usage(self, data: bytes, *, place: int) -> None:
        """One message of USAGE; one that is no batch lies in the dead letters. Raises DecodeError."""
        for event in usage_pb2.UsageBatch.FromString(data).events:
            if event.kind != usage_pb2.USAGE_KIND_CHARGE:
                continue
            try:
                request_id = UUID(event.request_id)
            except ValueError:
                continue  # set aside without a request
            self.charges[request_id].add(event.charge_nano_usd)
            self.places.setdefault(request_id, place)


@dataclasses.dataclass(slots=True, kw_only=True)
class Live:
    """The ledger in one snapshot; `leaving` are transfers still in the outbox."""

    moved: Mapping[UUID, Movement]
    made_at_us: Mapping[UUID, int]
    leaving: set[UUID]
    balances: Mapping[str, tuple[int, int]]
    charges: Mapping[UUID, int]
    dead: set[UUID]


def compare(before: Live, streams: Streams, after: Live) -> Report:
    """Compares a rebuild with the ledger as it was before and after the streams were read."""
    later = {id_ for id_ in streams.moved if id_ not in before.moved and id_ in after.moved}
    past = {id_: moved for id_, moved in streams.moved.items() if id_ not in later}
    found = [f"message {place} of LEDGER is no batch of transfers" for place in streams.strange]
    complete = streams.complete and not _is_made_anew(before, streams)
    since_us = 0 if complete else max(streams.first_us, streams.made_us) + _MARGIN_US
    found += [*_transfers(before, past, since_us=since_us if complete or past else _NEVER_US), *_usage(streams, after)]
    if complete:
        found += _balances(before, past)
    return Report(
        clean=not found,
        complete=complete,
        transfers=len(past),
        balances=len(before.balances) if complete else 0,
        usage_events=len(streams.charges),
        waiting=sum(1 for request_id in streams.charges if _waits(request_id, streams, after)),
        on_no_stream=sum(1 for request_id in before.charges if request_id not in streams.charges),
        differences=len(found),
        examples=found[:MAX_NAMED],
    )


def lost(streams: Streams, live: Live) -> list[Lost]:
    """What is on LEDGER and not in the ledger, in its order, without charges: USAGE brings those again."""
    return [
        Lost(id=str(id_), kind=kind, debit=debit, credit=credit, amount_nano_usd=amount, event_id=event_id)
        for id_, (debit, credit, amount, kind, event_id, _) in streams.moved.items()
        if kind != TransferKind.CHARGE and id_ not in live.moved
    ]


def _is_made_anew(live: Live, streams: Streams) -> bool:
    """Whether LEDGER is younger than transfers that had left."""
    return any(
        made_us < streams.made_us and id_ not in streams.moved and id_ not in live.leaving
        for id_, made_us in live.made_at_us.items()
    )


def _transfers(live: Live, past: Mapping[UUID, Movement], *, since_us: int) -> Iterable[str]:
    for id_, moved in live.moved.items():
        if id_ in past:
            if past[id_] != moved:
                yield f"transfer {id_} is {moved} in the ledger and {past[id_]} on LEDGER"
        elif id_ not in live.leaving and live.made_at_us[id_] >= since_us:
            yield f"transfer {id_} ({moved[4]}) is not on LEDGER"
    for id_, moved in past.items():
        if id_ not in live.moved:
            yield f"transfer {id_} ({moved[4]}) is on LEDGER and not in the ledger"


def _balances(live: Live, past: Mapping[UUID, Movement]) -> Iterable[str]:
    """Rebuilt balances, with what had not left yet added from the ledger itself."""
    rebuilt: dict[str, int] = defaultdict(int)
    versions: dict[str, int] = defaultdict(int)
    unsent = {id_: live.moved[id_] for id_ in live.leaving if id_ not in past}
    for debit, credit, amount, *_ in [*past.values(), *unsent.values()]:
        for account, change in ((debit, -amount), (credit, amount)):
            rebuilt[account] += change
            versions[account] += 1
    for customer_id, (posted, version) in live.balances.items():
        account = credits_account(customer_id)
        if (rebuilt[account], versions[account]) != (posted, version):
            yield (
                f"{customer_id} has {posted} after {version} transfers;"
                f" the streams make {rebuilt[account]} after {versions[account]}"
            )


def _usage(streams: Streams, live: Live) -> Iterable[str]:
    """Every charge that came was applied as it came, set aside, or waits; and its transfers make its amount."""
    booked: dict[str, int] = defaultdict(int)
    for _, _, amount, kind, event_id, _ in live.moved.values():
        if kind == "charge":
            booked[event_id] += amount
    for request_id, charges in streams.charges.items():
        if request_id in live.charges:
            applied = live.charges[request_id]
            if applied not in charges and request_id not in live.dead:
                yield f"request {request_id} is charged {applied}; USAGE says {sorted(charges)}"
            if applied != booked[f"charge:{request_id}"]:
                yield f"request {request_id} is charged {applied}; its transfers make {booked[f'charge:{request_id}']}"
        elif request_id not in live.dead and not _waits(request_id, streams, live):
            yield f"request {request_id} is on USAGE and was neither charged nor set aside"


def _waits(request_id: UUID, streams: Streams, live: Live) -> bool:
    known = request_id in live.charges or request_id in live.dead
    return not known and streams.places[request_id] > streams.applied_until
