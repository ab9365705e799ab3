"""Runs a job at a provider: decide, make, and on to the next account when that fails.

It knows nothing of claims and money; what comes back is what was made, by whom, and what the provider said it used.
A job that was submitted somewhere goes on there: it is never submitted anywhere else while it may still be running.

A call whose slot has become somebody else's, because we stood still, is ended and its job given back without a strike.
What its provider has made by then and we have not got is made anew, and paid by us again; the same goes for pictures
that are still being fetched by their links.
"""

import asyncio
import contextlib
import dataclasses
import functools
from collections.abc import Awaitable, Callable, Sequence

from chassis.errors import Code, TollbridgeError
from pricing.tokens import Tokens
from services.tasks.jobs import Job, Submission
from services.tasks.making import kinds
from services.tasks.making.kind import (
    AnyKind,
    File,
    Maker,
    Making,
    NotWanted,
    Product,
    Providers,
    ResultTooLarge,
    Wanted,
)
from services.tasks.owners import Router
from services.tasks.settlement import NO_TOKENS, Made
from services.tasks.work.unbroken import unbroken
from upstream.attempt import Tried, ended, run_attempts
from upstream.outcome import AnswerTooLarge, AttemptFailed, JobFailed, Outcome
from upstream.route import Route
from upstream.usage import estimate_input_tokens

MAX_ATTEMPTS = 4
CANCEL_S = 20.0
COLLECT_S = 2.0
"""How long a call whose slot has lapsed may still take up the answer that came while we stood still."""


class Unfinished(Exception):
    """What was submitted to a provider may still be running there; asking for it failed. Ask again later."""

    def __init__(self, failure: AttemptFailed) -> None:
        super().__init__("the provider's job is not finished")
        self.failure = failure


class MadeTooLarge(Exception):
    """The provider has made it, and will be paid for it, but it is larger than what can be kept."""

    def __init__(self, made: Made) -> None:
        super().__init__("the provider's result is too large to be kept")
        self.made = made


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ledge:
    """Where a running job leaves what must outlive its worker: what it has submitted (None: nothing any more), and
    how far it is. `submitted` raises NotWanted."""

    submitted: Callable[[Submission | None], Awaitable[None]]
    progress: Callable[[float], None]


class Workshop:
    """Has jobs made through whatever account router names."""

    def __init__(self, *, router: Router, providers: Providers) -> None:
        self._router = router
        self._providers = providers
        self._runs: set[_Run] = set()

    async def make(self, job: Job, ledge: Ledge) -> tuple[Made, tuple[File, ...]]:
        """What a job orders. Raises AttemptFailed of the last attempt, or what router refused with.

        Unfinished, and MadeTooLarge, end it too: another account would be paid for the same.
        """
        run = _Run(job, ledge, self._router, self._providers)
        self._runs.add(run)
        try:
            return await run.make()
        finally:
            self._runs.discard(run)

    def cut(self) -> int:
        """Ends in a moment what runs on slots that were taken before now; how much that is.

        What its provider works on by itself goes on, once that is noted: its worker only asks, and nobody who left it
        would end it there.
        """
        return sum(run.cut() for run in self._runs)

    async def stop(self, job: Job) -> None:
        """Stops what an ended job has running at its provider. Raises AttemptFailed and what router refuses with."""
        if job.submission is None:
            return
        kind = kinds.kind_of(job.order.kind)
        route = await self._router.decide(job, (), account_id=job.submission.provider_account_id)
        making: Making[Wanted] = Making(
            task_id=job.order.id,
            wanted=kind.parse(job.order.body),
            route=route,
            providers=self._providers,
            submitted=_never,
            progress=lambda _: None,
            submitted_id=job.submission.provider_task_id,
        )
        try:
            await kind.maker_of(route).cancel(making)
        except AttemptFailed as failure:
            self._router.finish(job, ended(route, failure.outcome, retry_after_s=failure.retry_after_s))
            raise
        except BaseException:
            self._router.finish(job, ended(route, Outcome.CANCELLED))
            raise
        self._router.succeeded(job, route)


class _Run:
    """One claim's attempts. `_submission` is what may be running at a provider now, `_slot` ends with the slot."""

    def __init__(self, job: Job, ledge: Ledge, router: Router, providers: Providers) -> None:
        self._job, self._ledge, self._router, self._providers = job, ledge, router, providers
        self._kind: AnyKind = kinds.kind_of(job.order.kind)
        self._wanted: Wanted = self._kind.parse(job.order.body)
        self._submission = job.submission
        self._slot = asyncio.timeout(None)

    async def make(self) -> tuple[Made, tuple[File, ...]]:
        try:
            async with self._slot:
                made, files = await run_attempts(
                    decide=self._decide,
                    call=self._attempt,
                    finish=functools.partial(self._router.finish, self._job),
                    max_attempts=MAX_ATTEMPTS,
                )
        except TimeoutError as error:
            if not self._slot.expired():
                raise
            raise TollbridgeError(Code.UNAVAILABLE, "The slot was lost while the worker stood still.") from error
        self._router.succeeded(self._job, made.route)
        return made, files

    def cut(self) -> bool:
        """Ends it in a moment, unless its provider works on it by itself; whether it will."""
        if self._submission is not None or self._slot.expired():
            return False
        self._slot.reschedule(asyncio.get_running_loop().time() + COLLECT_S)
        return True

    async def _decide(self, tried: Sequence[Tried]) -> Route:
        self._slot.reschedule(None)  # the next attempt has a slot of its own
        account_id = "" if self._submission is None else self._submission.provider_account_id
        return await self._router.decide(self._job, tried, account_id=account_id)

    async def _attempt(self, route: Route) -> tuple[Made, tuple[File, ...]]:
        maker = self._kind.maker_of(route)
        making: Making[Wanted] = Making(
            task_id=self._job.order.id,
            wanted=self._wanted,
            route=route,
            providers=self._providers,
            submitted=functools.partial(self._submitted, route),
            progress=self._ledge.progress,
            submitted_id=self._provider_task_id(),
            idempotency_key=f"{self._job.order.id}-{self._job.failures}",
        )
        try:
            product = await maker.make(making)
        except NotWanted:
            await unbroken(self._cancel(maker, making), within_s=CANCEL_S)
            raise
        except JobFailed:
            await self._forget()
            raise
        except AnswerTooLarge as error:
            unread = Product(files=(), units=self._wanted.most)
            raise MadeTooLarge(self._made(route, unread)) from error
        except ResultTooLarge as error:
            raise MadeTooLarge(self._made(route, error.product)) from error
        except AttemptFailed as failure:
            if self._submission is not None:
                raise Unfinished(failure) from failure
            raise
        return self._made(route, product), product.files

    async def _submitted(self, route: Route, provider_task_id: str) -> None:
        submission = Submission(provider_account_id=route.provider_account_id, provider_task_id=provider_task_id)
        self._submission = submission
        await self._ledge.submitted(submission)

    async def _cancel(self, maker: Maker[Wanted], making: Making[Wanted]) -> None:
        """Stops what was just submitted; a provider that can't be told has its own time limit."""
        with contextlib.suppress(AttemptFailed, TimeoutError):
            async with asyncio.timeout(CANCEL_S):
                known = self._provider_task_id()
                await maker.cancel(dataclasses.replace(making, submitted_id=known, idempotency_key=""))

    async def _forget(self) -> None:
        if self._submission is not None:
            await self._ledge.submitted(None)
            self._submission = None

    def _made(self, route: Route, product: Product) -> Made:
        captured = product.captured
        tokens, implausible = captured.tokens, captured.implausible
        if tokens is not None and not self._can_be(tokens, route):
            tokens, implausible = None, True
        return Made(
            route=route,
            tokens=NO_TOKENS if tokens is None else tokens,
            units=product.units,
            reported_cost_nano_usd=captured.reported_cost_nano_usd,
            generation_id=captured.generation_id or self._provider_task_id(),
            is_evidence_counted=tokens is None or product.is_counted,
            implausible=implausible,
        )

    def _provider_task_id(self) -> str:
        return "" if self._submission is None else self._submission.provider_task_id

    def _can_be(self, tokens: Tokens, route: Route) -> bool:
        """Whether a request with these bounds can have used that much; otherwise the pieces alone are charged."""
        most_input = estimate_input_tokens(self._job.order.body, route.bounds)
        most_output = self._wanted.output_tokens(route.bounds.max_output) + route.bounds.hidden_output
        return tokens.prompt <= most_input and tokens.completion <= most_output


async def _never(_: str) -> None:
    """Nothing is submitted by a cancellation."""
