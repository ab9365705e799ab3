"""Runs claimed jobs, each to its end or back into the line.

A job that runs has a heartbeat, which renews its claim; when the claim is lost (cancelled by the customer, or taken
over after a silence) the job is stopped, and whatever it would still have done can't take effect, because every end
names its claim. What it has running at a provider is stopped there by `stopper.py` once it is ended, and otherwise
asked for by whoever has it next.
"""

import asyncio
import collections
import dataclasses
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import structlog
from structlog.typing import FilteringBoundLogger

from chassis import db
from chassis.errors import Code, TollbridgeError
from chassis.telemetry import Tracer
from pricing.charge import ChargeOutOfRange
from services.tasks import jobs
from services.tasks.ends import Ends
from services.tasks.files import leftovers
from services.tasks.files.results import Results, file_id
from services.tasks.jobs import Job, ResultFile, Submission
from services.tasks.making.kind import File, NotWanted
from services.tasks.settlement import Made
from services.tasks.work import claim_store
from services.tasks.work.time_left import time_left
from services.tasks.work.workshop import Ledge, MadeTooLarge, Unfinished, Workshop
from upstream.outcome import AttemptFailed, Outcome, to_error

T = TypeVar("T")

INSIST_S = 300.0
"""How long a step is tried that must not be lost, after the provider has done its work."""
PAUSE_S = 0.5
MAX_PAUSE_S = 8.0
STEP_PAUSE_S = 0.5
"""At most so often is it told how far a job is."""
LEAST_STEP = 0.01
_WAITS = frozenset({Code.UNAVAILABLE, Code.OVERLOADED, Code.DEADLINE_EXCEEDED})
"""Nobody has room for the job now, which says nothing of it: it waits until its time is over."""
_PASSES = frozenset({Code.PROVIDER_ERROR, Code.INTERNAL})
"""Worth another claim later, a bounded number of times."""
_UNHEARD = frozenset({Outcome.TIMED_OUT, Outcome.UNREACHABLE})
"""The provider may have made it, and hands it out when the same order comes again."""


class ClaimLost(NotWanted):
    """The job is somebody else's now, or over."""


class Worker:
    """Runs claimed jobs, any number at once. `tell` says how far one is to whoever listens, and never fails."""

    def __init__(
        self,
        *,
        pool: db.Pool,
        ends: Ends,
        workshop: Workshop,
        results: Results,
        extend_hold: Callable[[Job], Awaitable[bool]],
        tracer: Tracer,
        tell: Callable[[Job], Awaitable[None]],
        log: FilteringBoundLogger,
        now_us: Callable[[], int] = lambda: time.time_ns() // 1000,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._pool = pool
        self._ends = ends
        self._workshop = workshop
        self._results = results
        self._extend_hold = extend_hold
        self._tracer = tracer
        self._tell = tell
        self._log = log
        self._now_us = now_us
        self._chance = chance
        self._work: dict[str, asyncio.Task[float | None]] = {}
        self._submitted: set[str] = set()
        self.implausible: collections.Counter[str] = collections.Counter()

    async def run(self, job: Job) -> float | None:
        """Runs a claimed job; the pause after which it is due again, or None when it is over or somebody else's."""
        structlog.contextvars.bind_contextvars(request_id=job.order.id)  # on every line of this job's own task
        self._mark(job, job.submission)
        steps = _Steps(job.progress)
        work = asyncio.create_task(self._to_its_end(job, steps), name="task work")
        self._work[job.order.id] = work
        beat = asyncio.create_task(self._beat(job, steps, work), name="task heartbeat")
        try:
            return await work
        except ClaimLost:
            return None
        except TollbridgeError as error:
            self._log.warning("job_left_to_its_lease", task_id=job.order.id, error=error.message)
            return None
        except asyncio.CancelledError:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
            if (own := asyncio.current_task()) is not None and own.cancelling():
                await self.give_back(job)
                raise
            return None  # the claim was lost, and the work stopped for that
        finally:
            if self._work.get(job.order.id) is work:  # it may have been claimed here anew meanwhile
                del self._work[job.order.id]
                self._submitted.discard(job.order.id)
            beat.cancel()
            (end,) = await asyncio.gather(beat, return_exceptions=True)
            if isinstance(end, Exception):
                self._log.error("heartbeat_broke", exc_info=end)

    def is_submitted(self, task_id: str) -> bool:
        """Whether a job that runs here goes on at its provider without us."""
        return task_id in self._submitted

    def stop(self, task_id: str) -> None:
        """Stops a job that has been ended by somebody else, if it runs here; the heartbeat would find out later."""
        work = self._work.get(task_id)
        if work is not None:
            work.cancel()

    async def give_back(self, job: Job) -> None:
        """Puts a claimed job back into the line; without this, it would wait for its lease to lapse."""
        try:
            await self._release(job, pause_s=0.0)
        except TollbridgeError as error:
            self._log.warning("job_not_given_back", task_id=job.order.id, error=error.message)

    async def _to_its_end(self, job: Job, steps: "_Steps") -> float | None:
        """As `run`; what nobody foresaw is tried again later, too, and not in a tight loop."""
        try:
            return await self._try(job, steps)
        except (NotWanted, TollbridgeError):
            raise
        except Exception:  # noqa: BLE001  logged whole; the job is tried again, a bounded number of times
            self._log.exception("job_broke", task_id=job.order.id)
            broken = TollbridgeError(Code.INTERNAL, "The task could not be finished.")
            return await self._refused(job, broken, is_provider=False)

    async def _try(self, job: Job, steps: "_Steps") -> float | None:
        left_s = max(0.0, (job.deadline_us - self._now_us()) / 1_000_000)
        try:
            async with time_left(left_s):
                await self._extend_hold(job)
                made, files = await self._make(job, steps)
        except TimeoutError:
            await self._fail(job, Code.DEADLINE_EXCEEDED, "The task took too long.", is_provider=False)
            return None
        except AttemptFailed as failure:
            return await self._refused(job, to_error(failure), has_failed=failure.outcome not in _UNHEARD)
        except TollbridgeError as error:
            return await self._refused(job, error)
        except Unfinished as error:
            return await self._unfinished(job, error.failure)
        except MadeTooLarge as error:
            await self._lose(job, error.made, "The provider's result is too large to be kept.")
            return None
        await self._hand_over(job, made, files)
        return None

    async def _hand_over(self, job: Job, made: Made, files: Sequence[File]) -> None:
        """Keeps what was made and ends the job. It is never made again: what can't be kept in time is our loss.

        The job's own time plays no part any more, since the provider has done its work.
        """
        if made.is_odd:
            self._tell_of_odd_usage(job, made)
        try:
            kept = await self._insist(lambda: self._keep(job, files))
        except Exception:  # noqa: BLE001  logged whole; whatever it was, the provider has been paid
            self._log.exception("result_lost", task_id=job.order.id)
            await self._lose(job, made, "The result could not be kept.")
            return
        try:
            await self._insist(lambda: self._succeed(job, made, kept))
        except ChargeOutOfRange:
            self._log.exception("result_not_chargeable", task_id=job.order.id)
            await self._lose(job, made, "The result could not be charged.")

    def _tell_of_odd_usage(self, job: Job, made: Made) -> None:
        """The same words as of a chat: operators look for one of them."""
        self.implausible[made.route.provider_id] += 1
        self._log.warning(
            "implausible_usage",
            request_id=job.order.id,
            model=job.order.model,
            provider=made.route.provider_id,
            reported_cost_nano_usd=made.reported_cost_nano_usd,
        )

    async def _make(self, job: Job, steps: "_Steps") -> tuple[Made, tuple[File, ...]]:
        """Has it made, as one step of the trace that began with the order."""
        order = job.order
        with self._tracer.span(
            "tasks/run", parent=order.traceparent, kind="consumer", task_id=order.id, model=order.model
        ) as span:
            traced = dataclasses.replace(order, traceparent=span.traceparent or order.traceparent)
            return await self._workshop.make(dataclasses.replace(job, order=traced), self._ledge(job, steps))

    def _ledge(self, job: Job, steps: "_Steps") -> Ledge:
        async def submitted(submission: Submission | None) -> None:
            await self._insist(lambda: self._note_submission(job, submission))
            self._mark(job, submission)

        return Ledge(submitted=submitted, progress=steps.reached)

    def _mark(self, job: Job, submission: Submission | None) -> None:
        if submission is None:
            self._submitted.discard(job.order.id)
        else:
            self._submitted.add(job.order.id)

    async def _note_submission(self, job: Job, submission: Submission | None) -> None:
        async with db.transaction(self._pool) as conn:
            if not await claim_store.note_submission(conn, job.order.id, submission, claim_number=job.claims):
                raise ClaimLost

    async def _unfinished(self, job: Job, failure: AttemptFailed) -> float | None:
        """It goes on there; whatever the answer to our question was, it is no verdict on the job."""
        error = to_error(failure)
        if error.code is Code.PROVIDER_REJECTED:
            error = TollbridgeError(Code.PROVIDER_ERROR, error.message)
        return await self._refused(job, error, has_failed=True)

    async def _refused(
        self, job: Job, error: TollbridgeError, *, has_failed: bool = False, is_provider: bool = True
    ) -> float | None:
        """Fails the job, or gives it back while there is hope. `has_failed`: a provider was asked."""
        is_strike = error.code not in _WAITS
        if is_strike and (error.code not in _PASSES or job.strikes + 1 >= jobs.MAX_STRIKES):
            await self._fail(job, error.code, error.message, is_provider=is_provider)
            return None
        chance = self._chance()
        pause_s = jobs.wait_s(error.retry_after_s, chance=chance)
        if is_strike or has_failed:
            growing = jobs.outage_s if error.code is Code.INTERNAL else jobs.pause_s
            pause_s = max(pause_s, growing(max(job.strikes, job.failures) + 1, chance=chance))
        self._log.info("job_given_back", task_id=job.order.id, code=error.code.value, pause_s=pause_s)
        await self._release(job, pause_s=pause_s, has_failed=has_failed, is_strike=is_strike)
        return pause_s

    async def _fail(self, job: Job, code: Code, message: str, *, is_provider: bool = True) -> None:
        await self._insist(lambda: self._ends.fail(job, code=code, message=message, is_provider=is_provider))

    async def _lose(self, job: Job, made: Made, message: str) -> None:
        await self._insist(lambda: self._ends.lose(job, made, code=Code.PROVIDER_ERROR, message=message))

    async def _succeed(self, job: Job, made: Made, files: tuple[ResultFile, ...]) -> None:
        if await self._ends.succeed(job, made, files) is None:
            raise ClaimLost

    async def _keep(self, job: Job, files: Sequence[File]) -> tuple[ResultFile, ...]:
        """Stores the files under ids that follow from the job, so that a second run replaces the first's."""
        names = [file_id(job.order.id, position) for position in range(len(files))]
        async with db.transaction(self._pool) as conn:  # should the job end otherwise, they are found and removed
            await leftovers.note(conn, names, clear_in_s=leftovers.STORING_S)
        kept = []
        for name, file in zip(names, files, strict=True):
            await self._results.put(name, file.data)
            kept.append(ResultFile(file_id=name, content_type=file.content_type, size_bytes=len(file.data)))
        return tuple(kept)

    async def _beat(self, job: Job, steps: "_Steps", work: "asyncio.Task[float | None]") -> None:
        """Renews the claim every few seconds, and at each step forward; stops the work once the claim is lost."""
        while True:
            await steps.next(within_s=jobs.HEARTBEAT_S)
            try:
                async with db.transaction(self._pool) as conn:
                    held = await claim_store.renew(conn, job.order.id, claim_number=job.claims)
                    further = await claim_store.advance(conn, job.order.id, steps.now, claim_number=job.claims)
            except TollbridgeError as error:
                self._log.warning("heartbeat_missed", task_id=job.order.id, error=error.message)
            else:
                if not held:
                    work.cancel()
                    return
                if further is not None:
                    await self._tell(further)
            await asyncio.sleep(STEP_PAUSE_S)

    async def _insist(self, step: Callable[[], Awaitable[T]]) -> T:
        """Tries a step again while what it needs is away. Raises UNAVAILABLE when that lasts for INSIST_S."""
        clock = asyncio.get_running_loop().time
        give_up_s, pause_s = clock() + INSIST_S, PAUSE_S
        while True:
            try:
                return await step()
            except TollbridgeError as error:
                if error.code is not Code.UNAVAILABLE or clock() + pause_s > give_up_s:
                    raise
                self._log.warning("job_step_waits", error=error.message)
            await asyncio.sleep(pause_s)
            pause_s = min(MAX_PAUSE_S, 2 * pause_s)

    async def _release(self, job: Job, *, pause_s: float, has_failed: bool = False, is_strike: bool = False) -> None:
        async with db.transaction(self._pool) as conn:
            await claim_store.release(
                conn,
                job.order.id,
                claim_number=job.claims,
                pause_s=pause_s,
                has_failed=has_failed,
                is_strike=is_strike,
            )


class _Steps:
    """How far a running job is, as its maker says."""

    def __init__(self, now: float) -> None:
        self.now = now
        self._told = now
        self._news = asyncio.Event()

    def reached(self, fraction: float) -> None:
        """0 to 1; less than before is not heard, nor are steps too small to be told."""
        self.now = max(self.now, min(1.0, fraction))
        if self.now - self._told >= LEAST_STEP:
            self._news.set()

    async def next(self, *, within_s: float) -> None:
        """Waits for a step, or for that long."""
        try:
            async with asyncio.timeout(within_s):
                await self._news.wait()
        except TimeoutError:
            return
        self._told = self.now
        self._news.clear()
