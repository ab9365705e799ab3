"""What tasks asks of router and billing, one method a question. Each call is idempotent by the ids in it."""

import asyncio
import collections
from collections.abc import Callable, Sequence

from structlog.typing import FilteringBoundLogger

from chassis import ids
from chassis.errors import Code, TollbridgeError
from chassis.pipe import PipeClient
from services.tasks.jobs import HOLD_GRACE_S, Job
from services.tasks.outbox import Letter
from services.tasks.work.listening import lasting_clock
from tollbridge.billing.v1 import billing_pb2
from tollbridge.router.v1 import router_pb2
from tollbridge.usage.v1 import usage_pb2
from upstream import decision
from upstream.attempt import Tried, ended
from upstream.outcome import Outcome
from upstream.route import Route

CALL_TIMEOUT_S = 5.0
DECIDE_TIMEOUT_S = 15.0
"""Longer than router may let a decision wait for a slot."""
LOOK_S = 1.0
STATE_EVERY_S = 10.0
STATE_AGAIN_S = 1.0
"""After a statement that router did not take."""
SLOTS_LIVE_S = 30.0
"""How long slots live without a statement, by our clock; router waits a little longer."""
AWAKE_LOOKS = 3
"""Who is awake looks more often while slots live, however busy it is and however long router leaves it waiting."""
_DONE = frozenset({billing_pb2.EVENT_STATE_COMMITTED, billing_pb2.EVENT_STATE_DEAD_LETTERED})


class Router:
    """Router's answers to one spender, and the statement of what that spender has running."""

    def __init__(
        self, *, pipe: PipeClient, spender: str, log: FilteringBoundLogger, clock: Callable[[], float] = lasting_clock
    ) -> None:
        self._pipe = pipe
        self._spender = spender
        self._log = log
        self._clock = clock
        self._open: set[str] = set()
        self._finishing: set[asyncio.Task[None]] = set()

    async def models(self) -> Sequence[router_pb2.Model]:
        """The public models with the prices that hold now."""
        answer = await self._pipe.call(
            "ListModels", router_pb2.ListModelsRequest(), router_pb2.ListModelsResponse, timeout_s=CALL_TIMEOUT_S
        )
        return answer.models

    async def decide(self, job: Job, tried: Sequence[Tried], *, account_id: str = "") -> Route:
        """The route of the next attempt, at the price that was accepted; at that account where one is named."""
        attempt_id = str(ids.uuid7())
        request = router_pb2.DecideRequest(
            request_id=job.order.id,
            attempt_id=attempt_id,
            spender=self._spender,
            model=job.order.model,
            operation=job.order.kind,
            tried=[decision.outcome(one) for one in tried],
            price_version=job.order.price_version,
            provider_account_id=account_id,
        )
        self._open.add(attempt_id)
        try:
            answer = await self._pipe.call(
                "Decide",
                request,
                router_pb2.DecideResponse,
                key=job.order.id,
                timeout_s=DECIDE_TIMEOUT_S,
                traceparent=job.order.traceparent,
            )
            route = decision.route(answer, price=decision.price(answer.price))
        except BaseException:  # its slot, if it was taken, is freed by the next statement
            self._open.discard(attempt_id)
            raise
        self._open.difference_update(one.attempt_id for one in tried)
        return route

    def finish(self, job: Job, tried: Tried) -> None:
        """Ends an attempt that no decision follows; the call goes on in a task that this object owns."""
        self._open.discard(tried.attempt_id)
        task = asyncio.create_task(self._finish(job, tried), name="finish attempt")
        self._finishing.add(task)
        task.add_done_callback(self._finishing.discard)

    def succeeded(self, job: Job, route: Route) -> None:
        """Ends the attempt that brought the answer."""
        self.finish(job, ended(route, Outcome.SUCCESS))

    async def run_stating(self, *, cut: Callable[[], int]) -> None:
        """States every ten seconds what runs, until cancelled: what is not stated loses its slot.

        `cut` ends the calls that run, and says how many: it is called when this process stood still, at once or by
        pieces, asleep with its machine too, for so long that others have their slots. A process that merely can't
        reach router cuts nothing: while nobody can be told, nobody else is told either.
        """
        looks = collections.deque([self._clock()] * AWAKE_LOOKS, maxlen=AWAKE_LOOKS)
        told_s = due_s = looks[0]
        while True:
            now_s = self._clock()
            if max(told_s, looks[0]) < now_s - SLOTS_LIVE_S:
                self._log.error("stood_still", seconds=round(now_s - looks[-1]), cut=cut())
                told_s = due_s = now_s  # what begins from now on has slots of its own
            looks.append(now_s)
            if now_s >= due_s:
                is_told = await self._state()
                told_s, due_s = (now_s, now_s + STATE_EVERY_S) if is_told else (told_s, now_s + STATE_AGAIN_S)
            await asyncio.sleep(LOOK_S)

    async def _state(self) -> bool:
        try:
            await self._pipe.call(
                "StateAttempts",
                router_pb2.StateAttemptsRequest(
                    spender=self._spender, attempt_ids=sorted(self._open), as_of=str(ids.now_floor())
                ),
                router_pb2.StateAttemptsResponse,
                key=self._spender,
                timeout_s=CALL_TIMEOUT_S,
            )
        except TollbridgeError as error:
            self._log.warning("attempts_not_stated", error=error.message)
            return False
        return True

    async def close(self) -> None:
        """Waits for the ends that are on their way, each of which has its own limit."""
        await asyncio.gather(*self._finishing, return_exceptions=True)

    async def _finish(self, job: Job, tried: Tried) -> None:
        request = router_pb2.FinishAttemptRequest(request_id=job.order.id, outcome=decision.outcome(tried))
        try:
            await self._pipe.call(
                "FinishAttempt",
                request,
                router_pb2.FinishAttemptResponse,
                key=job.order.id,
                timeout_s=CALL_TIMEOUT_S,
            )
        except TollbridgeError as error:  # the next statement frees the slot all the same
            self._log.warning("attempt_not_finished", error=error.message)


class Billing:
    """Billing's answers."""

    def __init__(self, *, pipe: PipeClient, log: FilteringBoundLogger) -> None:
        self._pipe = pipe
        self._log = log

    async def hold(self, request: billing_pb2.HoldRequest, traceparent: str) -> None:
        """Holds the money. Raises INSUFFICIENT_CREDITS and what else billing refuses with."""
        await self._pipe.call(
            "Hold",
            request,
            billing_pb2.HoldResponse,
            key=request.customer_id,
            timeout_s=CALL_TIMEOUT_S,
            traceparent=traceparent,
        )

    async def extend(self, job: Job) -> bool:
        """Lets the hold of a job live until a late settlement; False where that should be tried again."""
        if not job.order.is_held:
            return True
        deadline_us = job.deadline_us + int(HOLD_GRACE_S * 1_000_000)
        request = billing_pb2.ExtendHoldRequest(hold_id=job.order.hold_id, deadline_us=deadline_us)
        try:
            await self._pipe.call(
                "ExtendHold",
                request,
                billing_pb2.ExtendHoldResponse,
                key=job.order.customer_id,
                timeout_s=CALL_TIMEOUT_S,
            )
        except TollbridgeError as error:
            self._log.warning("hold_not_extended", task_id=job.order.id, error=error.message)
            return error.code is Code.NOT_FOUND  # it is over: its job is paid from what is free
        return True

    async def committed(self, letters: Sequence[Letter]) -> list[bool]:
        """Of each usage letter, whether billing has it: applied, or set aside for an operator."""
        records = [usage_pb2.UsageRecorded.FromString(letter.payload) for letter in letters]
        keys = [
            billing_pb2.EventKey(request_id=record.request_id, kind=record.kind, event_id=record.event_id)
            for record in records
        ]
        answer = await self._pipe.call(
            "Confirm", billing_pb2.ConfirmRequest(keys=keys), billing_pb2.ConfirmResponse, timeout_s=CALL_TIMEOUT_S
        )
        return [state in _DONE for state in answer.states]
