"""What billing knows of usage events, so that a spender's spool may forget them."""

from collections.abc import Sequence
from uuid import UUID

from chassis import db
from services.billing import store
from tollbridge.billing.v1 import billing_pb2 as pb


class Confirmations:
    """Answers from what is committed, never from memory: a spool forgets for ever."""

    def __init__(self, *, pool: db.Pool) -> None:
        self._pool = pool

    async def states(self, keys: Sequence[tuple[UUID, str]]) -> list[pb.EventState.ValueType]:
        """For each (request, kind) whether it is committed, in the dead letters, or never seen."""
        async with db.transaction(self._pool) as connection:
            found = await store.event_states(connection, keys)
        return [_state(committed, dead) for committed, dead in found]


def _state(committed: bool, dead: bool) -> pb.EventState.ValueType:
    if committed:
        return pb.EVENT_STATE_COMMITTED
    return pb.EVENT_STATE_DEAD_LETTERED if dead else pb.EVENT_STATE_MISSING
