"""The attempts of one exchange, one after another, until an answer begins; and the end of the one that answered.

All of it runs in the exchange's task and owns none. Cancelled while router decides, what router may have given it is
given back; cancelled while a provider is asked, the call is closed and its attempt ends as cancelled. The answer that
`run` returns is the exchange's: it closes the response and calls `end`.
"""

import asyncio
import functools
from collections.abc import Callable, Sequence

from chassis.errors import Code, TollbridgeError
from chassis.ids import uuid7
from services.edge.bodies.request_body import aside, is_large
from services.edge.metrics import UNKNOWN_MODEL
from services.edge.owners import Authority
from services.edge.paid.admission import Allowance
from services.edge.paid.endings import Endings
from services.edge.paid.observing import Observer
from services.edge.paid.opening import OpenStream, WholeAnswer, begin_stream, read_whole
from services.edge.paid.operation import Operation
from services.edge.paid.paid_request import PaidRequest
from services.edge.paid.relay import Tools
from services.edge.spending.settlement import Facts
from upstream.attempt import Tried, ended, run_attempts
from upstream.outcome import Outcome
from upstream.route import Route

MAX_ATTEMPTS = 4


class Tries:
    """One request's attempts. `model` and `allowance` are those of the last one that router decided on."""

    def __init__(
        self,
        *,
        tools: Tools,
        operation: Operation,
        request: PaidRequest,
        facts: Facts,
        authority: Authority,
        asked: Callable[[], None],
        include_usage: bool,
        endings: Endings,
        observer: Observer,
    ) -> None:
        self._tools = tools
        self._operation = operation
        self._request = request
        self._facts, self._authority, self._asked = facts, authority, asked
        self._include_usage = include_usage
        self._endings = endings
        self._observer = observer
        self._request_id = str(facts.request_id)
        self._clock = asyncio.get_running_loop().time
        self._total_s: float | None = None
        self._has_ended = False
        self.model = UNKNOWN_MODEL
        self.allowance: Allowance | None = None
        self.opened: OpenStream | WholeAnswer | None = None
        """What answered, once it has begun."""

    async def run(self) -> OpenStream | WholeAnswer:
        """Until an answer has begun. Raises TollbridgeError or AttemptFailed when none does."""
        self.opened = await run_attempts(
            decide=self._decide, call=self._call, finish=self._finish, max_attempts=MAX_ATTEMPTS
        )
        return self.opened

    def end(self, outcome: Outcome) -> None:
        """Tells router how the attempt that answered has ended; once, and never waits."""
        if (opened := self.opened) is None or self._has_ended:
            return
        self._has_ended = True
        opened.span.set(outcome=outcome.value)
        opened.span.__exit__(None, None, None)
        self._finish(ended(opened.route, outcome, first_byte_s=opened.began_s - opened.route.decided_s))

    async def _decide(self, tried: Sequence[Tried]) -> Route:
        if tried:
            self._observer.retry(tried[-1].outcome)
            if self._total_s is not None and self._clock() >= self._total_s:
                raise TollbridgeError(Code.DEADLINE_EXCEEDED, "The total time is over.")
        attempt_id, attempts = str(uuid7()), self._tools.attempts
        attempts.begin(attempt_id)
        trace = self._facts.traceparent
        try:
            with self._tools.tracer.span("edge.decide", parent=trace) as span:
                route = await self._tools.router.decide(
                    request_id=self._request_id,
                    attempt_id=attempt_id,
                    model=self._request.model,
                    operation=self._operation.category,
                    tried=tried,
                    traceparent=span.traceparent or trace,
                )
        except BaseException as error:
            attempts.undecided(request_id=self._request_id, attempt_id=attempt_id, error=error)
            raise
        for each in tried:
            attempts.forget(each.attempt_id)
        self.model = route.model
        if self._total_s is None:
            self._total_s = self._clock() + route.timeouts.total_s
        return route

    async def _call(self, route: Route) -> OpenStream | WholeAnswer:
        tools, trace = self._tools, self._facts.traceparent
        tools.admission.check_model(self._authority, route.model)
        request, wire = self._request, self._operation.wire_of(route)
        await aside(request.body, wire.check, request, route)
        allowance = self.allowance = await tools.admission.fund(
            request=request,
            request_id=self._facts.request_id,
            authority=self._authority,
            route=route,
            before=self.allowance,
            traceparent=trace,
        )
        await self._endings.open(route, allowance)
        self._asked()
        span = tools.tracer.span("edge.attempt", parent=trace, kind="client", provider=route.provider_id)
        span.__enter__()
        limits, most, ours = allowance.limits, allowance.max_tokens, self._request_id
        ask = functools.partial(tools.providers.ask, request, wire, route, max_tokens=most, request_id=ours)
        try:
            if not request.stream:
                body = await read_whole(await ask())
                larger = body if is_large(body) else request.body
                answer = await aside(larger, wire.answer, body, request, route, limits=limits)
                return WholeAnswer(route=route, span=span, answer=answer)
            make = functools.partial(wire.stream, request, route, include_usage=self._include_usage, limits=limits)
            reader = await aside(request.body, make)  # before the call: no open answer waits for it
            chunks, head = await begin_stream(response := await ask(), reader, limits=limits)
        except BaseException as error:
            span.__exit__(type(error), error, error.__traceback__)
            raise
        return OpenStream(route=route, span=span, response=response, chunks=chunks, reader=reader, head=head)

    def _finish(self, attempt: Tried) -> None:
        self._observer.attempt(attempt.outcome)
        self._tools.attempts.finish(request_id=self._request_id, attempt=attempt)
