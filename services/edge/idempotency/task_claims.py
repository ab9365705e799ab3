"""Idempotency keys of long jobs. The task is the answer: a key stands for a task's id, and whoever comes again under it
is shown that task. Tasks accepts an id once, so nothing else has to be kept.
"""

import contextlib
import dataclasses
from collections.abc import AsyncIterator

from fastapi import Request

from chassis.errors import Code, TollbridgeError
from services.edge.http.json_http import Caller, context
from services.edge.idempotency.claims import Claim, Claims, Outcome, fingerprint, key_of

UNSURE = frozenset({Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.OVERLOADED, Code.INTERNAL})
"""After these the task may have been accepted all the same."""


@dataclasses.dataclass(slots=True, kw_only=True)
class ClaimedTask:
    """The task id to use; `begun` says that a task of that id may be there. The caller sets `succeeded` once it has."""

    task_id: str
    begun: bool
    succeeded: bool = False


class TaskClaims:
    """Claims of requests that make a task."""

    def __init__(self, *, claims: Claims) -> None:
        self._claims = claims

    @contextlib.asynccontextmanager
    async def claimed(self, request: Request, caller: Caller, body: bytes) -> AsyncIterator[ClaimedTask]:
        """The task id of this request, claimed for the time of the block; without a key a new one.

        A task that succeeded is the key's for as long as keys are kept, whatever fails after it; one that failed free
        of charge, or was never accepted, frees it; one that goes on, or may have been accepted, is taken up by the next
        call. Raises CONFLICT while another call waits for it, IDEMPOTENCY_MISMATCH, UNAVAILABLE.
        """
        found, key = context(request), key_of(request.headers.raw)
        if key is None:
            yield ClaimedTask(task_id=found.request_id, begun=False)
            return
        path = found.surface.prefix + request.scope["path"]
        claim = await self._claims.claim(
            customer_id=caller.customer_id,
            key=key,
            body_hash=fingerprint(method=request.method, path=path, body=body),
            call_id=found.request_id,
        )
        task = ClaimedTask(task_id=str(claim.request_id), begun=claim.taken_over or claim.answered)
        outcome = Outcome.LAPSED
        try:
            yield task
        except TollbridgeError as error:
            outcome = _after(error, claim)
            raise
        finally:
            if not claim.answered:
                await self._claims.end(claim, Outcome.ANSWERED if task.succeeded else outcome)


def _after(error: TollbridgeError, claim: Claim) -> Outcome:
    if "task_id" in error.details:  # the task itself has failed
        return Outcome.RELEASED
    return Outcome.LAPSED if error.code in UNSURE or claim.taken_over else Outcome.RELEASED
