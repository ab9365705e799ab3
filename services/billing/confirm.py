"""What billing knows of usage events, so that a spender's spool may forget them."""

import dataclasses
from collections.abc import Iterable, Sequence
from uuid import UUID

from chassis import db
from services.billing import batch_store, store
from tollbridge.billing.v1 import billing_pb2 as pb
from tollbridge.usage.v1 import usage_pb2


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """An event that a spender asks about; without an `event_id`, any of the request and kind."""

    request_id: UUID
    kind: str
    event_id: str = ""


class Confirmations:
    """Answers from what is committed, never from memory: a spool forgets for ever."""

    def __init__(self, *, pool: db.Pool) -> None:
        self._pool = pool

    async def states(self, asked: Sequence[Asked]) -> list[pb.EventState.ValueType]:
        """For each event whether it is committed, in the dead letters, or never seen.

        Committed it is by any event of its request and kind; set aside only itself: its twin, from another run of the
        request, may be right, and may be lost on its way.
        """
        if not asked:
            return []
        async with db.transaction(self._pool, alone=True) as connection:
            found = await store.event_states(connection, [(each.request_id, each.kind) for each in asked])
        return [
            _state(committed, not committed and _is_among(letters, each.event_id))
            for each, (committed, letters) in zip(asked, found, strict=True)
        ]

    async def batches(self, batch_ids: Sequence[UUID]) -> list[bool]:
        """For each batch of the bus, whether it was applied whole; where not, its events are to be asked about."""
        if not batch_ids:
            return []
        async with db.transaction(self._pool, alone=True) as connection:
            applied = await batch_store.applied(connection, batch_ids)
        return [batch_id in applied for batch_id in batch_ids]


def _is_among(letters: Iterable[bytes], event_id: str) -> bool:
    return any(not event_id or usage_pb2.UsageRecorded.FromString(each).event_id == event_id for each in letters)


def _state(committed: bool, set_aside: bool) -> pb.EventState.ValueType:
    if committed:
        return pb.EVENT_STATE_COMMITTED
    return pb.EVENT_STATE_DEAD_LETTERED if set_aside else pb.EVENT_STATE_MISSING
