"""A hash chain over transfers: what is sealed can't be altered, removed or added to without being found.

At least every 20 seconds a batch of transfers is closed. Its seal is a hash over the seal before and each of its rows,
so the newest seal stands for all the past; kept elsewhere (`ledger seal`, the nightly proof's log), it convicts even
who rewrites transfers and all seals after them. The order is that of the seals: a transfer waits in a queue, into which
it comes by a trigger in its own transaction, until a batch takes it, whenever it was committed. What this can't find is
a change made before its row is read to be sealed, which the other checks of `verify` are for. Pure; `sealer` closes the
batches.
"""

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from json.encoder import encode_basestring_ascii as _quoted
from uuid import UUID

import msgspec
from msgspec.structs import astuple

from services.billing.ledger import Transfer

LATE = timedelta(hours=1)
"""How long before the seal that should have had it a transfer may have begun: longer than any transaction takes."""
FIRST = bytes(32)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Seal:
    """A closed batch. `emptied` says that nothing else waited then, so that the next one holds only what is younger."""

    n: int
    previous: bytes
    hash: bytes
    transfer_ids: Sequence[UUID]
    emptied: bool
    sealed_at: datetime

    @property
    def name(self) -> str:
        """How it is written down elsewhere."""
        return f"{self.n}:{self.hash.hex()}"


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A transfer as it is sealed: every column, in one canonical text."""

    id: UUID
    created_at_us: int
    text: str

    @property
    def created_at(self) -> datetime:
        """When its transaction began."""
        return EPOCH + timedelta(microseconds=self.created_at_us)


def canonical(columns: Mapping[str, object]) -> str:
    """A row's text: JSON with sorted names, texts or null for values, so that no driver's types get into it."""
    pairs = [f'"{name}":{_text(value)}' for name, value in sorted(columns.items())]
    return "{" + ",".join(pairs) + "}"


def canonical_transfer(transfer: Transfer, *, created_at_us: int) -> str:
    """The same text, of a transfer that need not be read again from its row."""
    # All ids and the kind become texts in one call; one by one they took longer than all else here.
    columns = msgspec.to_builtins(astuple(transfer))
    (id_, debit, credit, amount, kind, event_id, leg, reverses, request_id, reason, customer_id, version) = columns[:12]
    balance_after, cap_ids = columns[12:]
    return (
        f'{{"amount":"{amount}","balance_after":{_plain(balance_after)},'
        f'"cap_ids":{_text(" ".join(cap_ids) or None)},"created_at_us":"{created_at_us}",'
        f'"credit":{_quoted(credit)},"customer_id":{"null" if customer_id is None else _quoted(customer_id)},'
        f'"debit":{_quoted(debit)},"event_id":{_quoted(event_id)},"id":"{id_}","kind":"{kind}","leg":"{leg}",'
        f'"reason":{_quoted(reason)},"request_id":{_plain(request_id)},"reverses":{_plain(reverses)},'
        f'"version":{_plain(version)}}}'
    )


def _plain(value: object) -> str:
    """Of numbers and ids, in which nothing needs to be escaped."""
    return "null" if value is None else f'"{value}"'


def _text(value: object) -> str:
    return "null" if value is None else _quoted(str(value))


def seal_hash(n: int, previous: bytes, texts: Iterable[str]) -> bytes:
    """SHA-256 over the number, the seal before and the rows' texts in order, each on a line of its own."""
    lines = "\n".join([*texts, ""])
    return hashlib.sha256(n.to_bytes(8, "big") + previous + lines.encode()).digest()


def broken(seals: Iterable[tuple[Seal, Mapping[UUID, Row]]]) -> Iterator[str]:
    """What doesn't fit, a sentence each; given every seal in order with those of its rows that are still there."""
    before: Seal | None = None
    for seal, rows in seals:
        expected = (before.n + 1, before.hash) if before else (1, FIRST)
        if (seal.n, seal.previous) != expected:
            yield f"seal {seal.n} does not follow {before.name if before else 'the beginning'}"
        missing = [id_ for id_ in seal.transfer_ids if id_ not in rows]
        yield from (f"transfer {id_} of seal {seal.n} was removed" for id_ in missing)
        if not missing and seal_hash(seal.n, seal.previous, (rows[id_].text for id_ in seal.transfer_ids)) != seal.hash:
            yield f"a transfer of seal {seal.n} was altered ({seal.transfer_ids[0]} to {seal.transfer_ids[-1]})"
        if before is not None and before.emptied:
            oldest = before.sealed_at - LATE
            for row in rows.values():
                if row.created_at < oldest:
                    yield f"transfer {row.id} of seal {seal.n} was inserted later than it says"
        before = seal
