"""Takes work orders from the bus and runs their jobs, each to its end or back into the queue.

An order only wakes: whether there is something to do, and whether somebody else does it, the database says (`claim`).
A job that runs has a heartbeat, which renews the claim in the database and the delivery on the bus; when the claim is
lost (cancelled by the customer, or taken over after a silence) the job is stopped, and whatever it would still have
done can't take effect, because every end names its claim.

Each job runs in a task that the worker owns. `close` cancels what runs and gives it back, so that another worker
takes it up at once.
"""

import asyncio
import collections
import dataclasses
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import structlog
from structlog.typing import FilteringBoundLogger

from chassis import db
from chassis.bus import Delivery
from chassis.errors import Code, TollbridgeError
from chassis.telemetry import Tracer
from pricing.charge import ChargeOutOfRange
from services.tasks import consumer, jobs, store
from services.tasks.consumer import Summons
from services.tasks.ends import Ends
from services.tasks.jobs import Job, ResultFile, Submission
from services.tasks.kind import File
from services.tasks.results import Results, file_id
from services.tasks.settlement import Made
from services.tasks.workshop import Ledge, MadeTooLarge, Unfinished, Workshop
from upstream.outcome import AttemptFailed, Outcome, to_error

T = TypeVar("T")

INSIST_S = 300.0
"""How long a step is tried that must not be lost, after the provider has done its work."""
PAUSE_S = 0.5
MAX_PAUSE_S = 8.0
BUSY_PAUSE_S = 5.0
_PASSES = frozenset({Code.UNAVAILABLE, Code.OVERLOADED, Code.DEADLINE_EXCEEDED, Code.PROVIDER_ERROR})
"""Worth another claim later."""


class ClaimLost(Exception):
    """The job is somebody else's now, or over."""


class Worker:
    """Runs at most `jobs_at_once` jobs."""

    def __init__(
        self,
        *,
        pool: db.Pool,
        spender: str,
        ends: Ends,
        workshop: Workshop,
        results: Results,
        extend_hold: Callable[[Job], Awaitable[None]],
        tracer: Tracer,
        jobs_at_once: int,
        log: FilteringBoundLogger,
        now_us: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        self._pool = pool
        self._spender = spender
        self._ends = ends
        self._workshop = workshop
        self._results = results
        self._extend_hold = extend_hold
        self._tracer = tracer
        self._room = asyncio.Semaphore(jobs_at_once)
        self._log = log
        self._now_us = now_us
        self._running: set[asyncio.Task[None]] = set()
        self._progress: dict[str, float] = {}
        self.implausible: collections.Counter[str] = collections.Counter()

    @property
    def running(self) -> int:
        """Jobs that run now."""
        return len(self._running)

    async def handle(self, deliveries: Sequence[Delivery]) -> None:
        """Starts a job for each order, as soon as there is room."""
        for delivery in deliveries:
            await self._room.acquire()
            task = asyncio.create_task(self._deliver(delivery), name="task job")
            self._running.add(task)
            task.add_done_callback(self._ended)

    async def close(self) -> None:
        """Cancels what runs and waits until it has been given back."""
        for task in list(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._room.release()
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log.error("job_broke", exc_info=error)  # its lease lapses and the sweeper brings it back

    async def _deliver(self, delivery: Delivery) -> None:
        try:
            summons = consumer.read(delivery, self._log)
        except ValueError:
            self._log.error("work_order_unreadable", size=len(delivery.data))
            await delivery.ack()
            return
        try:
            async with db.transaction(self._pool) as conn:
                job = await store.claim(conn, summons.task_id, spender=self._spender)
        except TollbridgeError:
            await summons.again(BUSY_PAUSE_S)
            return
        if job is None:  # over, or another has it: should that one fall silent, the sweeper orders again
            await summons.done()
            return
        structlog.contextvars.bind_contextvars(request_id=job.order.id)  # on every line of this job's own task
        pause_s = await self._run_claimed(job, summons)
        if pause_s is None:
            await summons.done()
        else:
            await summons.again(pause_s)

    async def _run_claimed(self, job: Job, summons: Summons) -> float | None:
        """Runs a claimed job; the pause after which to try again, or None when it is over."""
        work = asyncio.create_task(self._to_its_end(job), name="task work")
        beat = asyncio.create_task(self._beat(job, summons, work), name="task heartbeat")
        try:
            return await work
        except ClaimLost:
            return None
        except TollbridgeError as error:
            self._log.warning("job_left_to_its_lease", task_id=job.order.id, error=error.message)
            return BUSY_PAUSE_S
        except asyncio.CancelledError:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
            if (own := asyncio.current_task()) is not None and own.cancelling():
                await self._give_back(job, summons)
                raise
            return None  # the heartbeat found the claim lost and stopped the work
        finally:
            self._progress.pop(job.order.id, None)
            beat.cancel()
            (end,) = await asyncio.gather(beat, return_exceptions=True)
            if isinstance(end, Exception):
                self._log.error("heartbeat_broke", exc_info=end)

    async def _to_its_end(self, job: Job) -> float | None:
        left_s = max(0.0, (job.deadline_us - self._now_us()) / 1_000_000)
        try:
            async with asyncio.timeout(left_s):
                await self._extend_hold(job)
                made, files = await self._make(job)
        except TimeoutError:
            await self._fail(job, Code.DEADLINE_EXCEEDED, "The task took too long.", is_provider=False)
            return None
        except AttemptFailed as failure:
            return await self._refused(job, to_error(failure), final=failure.outcome is Outcome.REJECTED)
        except TollbridgeError as error:
            return await self._refused(job, error, final=error.code not in _PASSES)
        except Unfinished as error:
            return await self._refused(job, to_error(error.failure), final=False)
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
        except TollbridgeError as error:
            self._log.error("result_lost", task_id=job.order.id, code=error.code.value, error=error.message)
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

    async def _make(self, job: Job) -> tuple[Made, tuple[File, ...]]:
        """Has it made, as one step of the trace that began with the order."""
        order = job.order
        with self._tracer.span(
            "tasks/run", parent=order.traceparent, kind="consumer", task_id=order.id, model=order.model
        ) as span:
            traced = dataclasses.replace(order, traceparent=span.traceparent or order.traceparent)
            return await self._workshop.make(dataclasses.replace(job, order=traced), self._ledge(job))

    def _ledge(self, job: Job) -> Ledge:
        async def submitted(submission: Submission | None) -> None:
            await self._insist(lambda: self._note_submission(job, submission))

        def progress(fraction: float) -> None:
            self._progress[job.order.id] = min(1.0, max(0.0, fraction))

        return Ledge(submitted=submitted, progress=progress)

    async def _note_submission(self, job: Job, submission: Submission | None) -> None:
        async with db.transaction(self._pool) as conn:
            if not await store.note_submission(conn, job.order.id, submission, claim_number=job.claims):
                raise ClaimLost

    async def _refused(self, job: Job, error: TollbridgeError, *, final: bool) -> float | None:
        """Fails the job, or gives it back while there is hope."""
        if final or job.claims >= jobs.MAX_CLAIMS:
            await self._fail(job, error.code, error.message)
            return None
        pause_s = max(jobs.pause_s(job.claims), error.retry_after_s or 0.0)
        self._log.info("job_given_back", task_id=job.order.id, code=error.code.value, pause_s=pause_s)
        await self._release(job)
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
        kept = []
        for position, file in enumerate(files):
            name = file_id(job.order.id, position)
            await self._results.put(name, file.data)
            kept.append(ResultFile(file_id=name, content_type=file.content_type, size_bytes=len(file.data)))
        return tuple(kept)

    async def _beat(self, job: Job, summons: Summons, work: "asyncio.Task[float | None]") -> None:
        while True:
            await asyncio.sleep(jobs.HEARTBEAT_S)
            try:
                await summons.still_at_it()
                async with db.transaction(self._pool) as conn:
                    held = await store.renew(
                        conn,
                        job.order.id,
                        claim_number=job.claims,
                        progress=self._progress.get(job.order.id, job.progress),
                    )
            except TollbridgeError as error:
                self._log.warning("heartbeat_missed", task_id=job.order.id, error=error.message)
                continue
            if not held:
                work.cancel()
                return

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

    async def _release(self, job: Job) -> None:
        async with db.transaction(self._pool) as conn:
            await store.release(conn, job.order.id, claim_number=job.claims)

    async def _give_back(self, job: Job, summons: Summons) -> None:
        """At the process's end: without this, the job would wait for its lease to lapse."""
        try:
            await self._release(job)
            await summons.again(0)
        except TollbridgeError as error:
            self._log.warning("job_not_given_back", task_id=job.order.id, error=error.message)
