"""Who runs a request that has an `Idempotency-Key`: one call at a time, all under one request id.

The first call's id becomes the request's. Whoever runs it states so every RENEW_IN_S; a claim that was not renewed for
LIVES_S is the next caller's, under the same request id, so that a first runner who was only thought dead and its
successor make one charge between them: (request_id, kind) is unique. Where nobody could be heard (`listening`: in a
stop of ours or the database's, before a start) that is LIVES_S later. The answer is not here: edge keeps it.
"""

import asyncio
import dataclasses
import enum
from collections.abc import Sequence
from uuid import UUID

from structlog.typing import FilteringBoundLogger

from chassis import db
from chassis.db import Connection
from chassis.errors import Code, TollbridgeError
from services.billing import claim_store, store
from services.billing.claim_store import Asked, Claim
from services.billing.listening import Listening

LIVES_S = 40.0
RENEW_IN_S = 10.0
KEPT_S = 86_400.0
PRUNE_PAUSE_S = 60.0
PRUNE_ROWS = 1000
MAX_PRUNES = 100
"""Steps of one look; what is left waits for the next."""
MAX_LOOKS = 5
"""How often a claim may vanish between our not making it and our looking at it."""


class Verdict(enum.Enum):
    """What a call may do with the key that it claims."""

    NEW = "new"
    TAKEN_OVER = "taken_over"
    RUNNING = "running"
    ANSWERED = "answered"
    MISMATCH = "mismatch"


class Outcome(enum.Enum):
    """How a call's work on its claim ended."""

    ANSWERED = "answered"
    RELEASED = "released"
    LAPSED = "lapsed"


_ENDS = {
    Outcome.ANSWERED: claim_store.answered,
    Outcome.RELEASED: claim_store.released,
    Outcome.LAPSED: claim_store.lapsed,
}


def judge(claim: Claim, asked: Asked) -> Verdict:
    """Whose turn it is, for a claim that is kept. A repeated call gets what it got."""
    if claim.body_hash != asked.body_hash:
        return Verdict.MISMATCH
    if claim.answered:
        return Verdict.ANSWERED
    if claim.call_id == asked.call_id:
        return Verdict.NEW if claim.request_id == asked.call_id else Verdict.TAKEN_OVER
    return Verdict.RUNNING if claim.alive else Verdict.TAKEN_OVER


class Claims:
    """The claims. Any replica serves any call. `kept_s` is how long a key stands for its request."""

    def __init__(
        self, *, pool: db.Pool, listening: Listening, log: FilteringBoundLogger, kept_s: float = KEPT_S
    ) -> None:
        self._pool = pool
        self._listening = listening
        self._log = log
        self._kept_s = kept_s

    async def claim(self, asked: Asked) -> tuple[Verdict, UUID]:
        """What the call may do, and the request's id."""
        for _ in range(MAX_LOOKS):
            found = await db.in_transaction(self._pool, lambda connection: self._claim(connection, asked))
            if found is not None:
                return found
        raise TollbridgeError(Code.UNAVAILABLE, "the claim changes too fast", retry_after_s=1)

    async def _claim(self, connection: Connection, asked: Asked) -> tuple[Verdict, UUID] | None:
        if await claim_store.add(connection, asked, lives_s=LIVES_S):
            return Verdict.NEW, asked.call_id
        claim = await claim_store.lock(connection, asked, kept_s=self._kept_s)
        if claim is None:
            return None
        if not (claim.alive or claim.given_up) and self._listening.goes_on(claim.now_us) < LIVES_S:
            claim = dataclasses.replace(claim, alive=True)  # it may have spoken where nobody heard it
        if not claim.kept and (claim.answered or not claim.alive):
            await claim_store.forget(connection, asked)
            return None
        verdict = judge(claim, asked)
        if verdict is Verdict.TAKEN_OVER:
            await claim_store.hand_over(connection, asked, lives_s=LIVES_S)
        return verdict, claim.request_id

    async def state(self, *, spender: str, call_ids: Sequence[UUID], spender_ended: bool) -> list[UUID]:
        """Renews these claims; returns those that the spender no longer has."""

        async def work(connection: Connection) -> set[UUID]:
            if spender_ended:
                await claim_store.end_spender(connection, spender=spender)
            return await claim_store.renew(connection, spender=spender, call_ids=call_ids, lives_s=LIVES_S)

        renewed = await db.in_transaction(self._pool, work) if call_ids or spender_ended else set()
        return [call_id for call_id in call_ids if call_id not in renewed]

    async def end(self, call_id: UUID, outcome: Outcome) -> None:
        """Ends a call's work; one that no longer has its claim changes nothing."""
        async with db.transaction(self._pool) as connection:
            await _ENDS[outcome](connection, call_id)

    async def keep(self) -> None:
        """Drops what is too old, once a minute until cancelled. Its failure is logged and tried again."""
        while True:
            await asyncio.sleep(PRUNE_PAUSE_S)
            try:
                await self.prune()
            except (TollbridgeError, store.DatabaseError) as error:
                self._log.error("claims_not_pruned", reason=str(error))

    async def prune(self) -> int:
        """Drops what is too old; returns how many claims."""
        pruned = 0
        for _ in range(MAX_PRUNES):
            async with db.transaction(self._pool) as connection:
                step = await claim_store.prune(connection, kept_s=self._kept_s, limit=PRUNE_ROWS)
            pruned += step
            if step < PRUNE_ROWS:
                break
        return pruned
