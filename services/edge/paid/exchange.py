"""One paid request from admitted to settled: attempts until a first byte, the bytes, and the one end.

An exchange runs in a task that `Relay` owns, apart from the server's task for the connection: a client that leaves
ends neither it nor its accounts. What its leaving means is the route's policy. Everything that waits for provider or
client waits with `patience.py`, and `client_gone` moves its end: to now for cancel and absorb, by `drain_s` for drain.
`tries.py` is all until an answer begins. However `run` is left, the tab is closed and the answer's attempt ended.
"""

import asyncio
from collections.abc import Callable

from chassis.errors import Code, TollbridgeError
from services.edge.http.reply import Header, Reply, whole_head
from services.edge.idempotency.keyed_request import Turn
from services.edge.limits.gate import Admitted
from services.edge.owners import Authority
from services.edge.paid.endings import Endings
from services.edge.paid.observing import Observer
from services.edge.paid.opening import OpenStream, WholeAnswer
from services.edge.paid.operation import Operation
from services.edge.paid.paid_request import PaidRequest
from services.edge.paid.patience import Patience
from services.edge.paid.relay import Relay
from services.edge.paid.tries import Tries
from services.edge.spending.settlement import Ending, Facts
from upstream.outcome import AttemptFailed, Outcome, to_error
from upstream.route import OnDisconnect, Route
from upstream.usage import BareStream, Captured

RELEASE_S = 0.25
"""How long the last bytes wait for the end of the provider's answer: until then, it counts there as one that runs."""


class Exchange:
    """One request. Its owner awaits `run` in a task; `client_gone` and `cut` may be called at any time."""

    def __init__(
        self,
        *,
        relay: Relay,
        reply: Reply,
        operation: Operation,
        request: PaidRequest,
        facts: Facts,
        authority: Authority,
        asked: Callable[[], None],
        include_usage: bool,
        turn: Turn | None = None,
        admitted: Admitted | None = None,
    ) -> None:
        self._relay = relay
        self._reply = reply
        self._operation = operation
        self._request = request
        self._request_id = str(facts.request_id)
        self._loop = asyncio.get_running_loop()
        self._tab = relay.tools.settlement.tab(facts)
        self._turn = turn
        self._endings = Endings(tab=self._tab, reply=reply, request=request, admitted=admitted, drains=turn is not None)
        self._observer = Observer(
            log=relay.log, metrics=relay.tools.metrics, tab=self._tab, request_id=self._request_id
        )
        self._tries = Tries(
            tools=relay.tools,
            operation=operation,
            request=request,
            facts=facts,
            authority=authority,
            asked=asked,
            include_usage=include_usage,
            endings=self._endings,
            observer=self._observer,
        )
        self._patience = Patience(sending=lambda: reply.sending)
        self._drains: Route | None = None
        self._head = b""
        self._cut = False

    @property
    def model(self) -> str:
        """The model that it ran, for whoever counts."""
        return self._tries.model

    def client_gone(self) -> None:
        """The client has left, or reads no more. It says nothing after the last bytes were handed over, nor of what we
        have cut."""
        if self._tab.closed or self._cut or self._endings.is_gone():
            return
        self._endings.mark_gone()
        now_s, route = self._loop.time(), self._tab.route
        if self._turn is not None:
            self._turn.client_left()
        elif isinstance(self._tries.opened, OpenStream):
            self._tries.opened.reader.stop_delivery()
        drains = route is not None and self._endings.policy is OnDisconnect.DRAIN and self._relay.begin_drain(route)
        self._drains = route if drains else None
        self._patience.end_at(now_s + route.drain_s if route is not None and drains else now_s)
        if drains and self._turn is None and isinstance(self._tries.opened, OpenStream):
            self._relay.start(self._note_gone(self._tries.opened), cut=lambda: None)

    def cut(self) -> None:
        """The process stops, or stood still: this exchange must end now, and is the gateway's failure."""
        if not self._tab.closed:
            self._cut = True
            self._patience.end_at(self._loop.time())

    async def run(self) -> None:
        """Serves the request to its end. Raises nothing but cancellation."""
        try:
            await self._serve()
        except TollbridgeError as error:
            await self._refuse(error)
        except AttemptFailed as failure:
            self._observer.failed(failure, model=self._tries.model)
            await self._refuse(to_error(failure))
        except OSError as error:
            self._relay.log.error("exchange_io_failed", request_id=self._request_id, reason=repr(error))
            await self._refuse(TollbridgeError(Code.OVERLOADED, "Please try again.", retry_after_s=1), ours=True)
        except Exception:
            self._relay.log.exception("exchange_failed", request_id=self._request_id)
            await self._refuse(TollbridgeError(Code.INTERNAL, "Something went wrong on our side."), ours=True)
        finally:
            self._endings.gateway_failed()
            self._observer.settled(model=self._tries.model)
            self._tries.end(Outcome.CANCELLED)
            if isinstance(self._tries.opened, OpenStream):
                self._tries.opened.response.close()
            if self._drains is not None:
                self._relay.end_drain(self._drains)
            if self._turn is not None:
                await self._turn.end(charged=self._tab.charged)

    async def _serve(self) -> None:
        try:
            async with self._patience.waiting():
                opened = await self._tries.run()
        except TimeoutError:
            if not self._patience.has_end:
                raise
            await self._stopped_unanswered()
            return
        if isinstance(opened, OpenStream):
            self._head, self._reply.stream = opened.head, opened.reader
            await self._stream(opened)
        else:
            await self._whole(opened)

    async def _stopped_unanswered(self) -> None:
        """Nothing was answered, and nobody waits any more, or we must stop."""
        if self._cut:
            await self._refuse_cut()
            return
        self._endings.unanswered()

    # Once an answer has begun.

    async def _whole(self, opened: WholeAnswer) -> None:
        self._tries.end(Outcome.SUCCESS)
        answer = opened.answer
        use = None if self._is_unheard() else await self._endings.use(answer.captured, answer.text)
        self._look_for_client()
        if use is None or self._is_unheard():
            await self._endings.client_gone(answer.captured, answer.text)
            return
        if self._is_cut_off():
            await self._refuse_cut()
            return
        body = answer.render(tokens=use.tokens, cost=self._endings.cost(use))
        kind = self._request.content_type
        head = whole_head(body, self._extra_headers(), content_type=kind)
        await self._keep(body, self._endings.finished(use), headers=head)
        # From here to the write of the body nothing else runs.
        self._endings.complete(use)
        if not self._endings.is_gone():
            await self._reply.whole(body, self._extra_headers(), content_type=kind)

    async def _stream(self, opened: OpenStream) -> None:
        self._look_for_client()
        failure = await self._pump(opened)
        if failure is not None:
            opened.response.close()  # before anything is counted: nobody wants what still comes
        captured = opened.reader.finish()
        if captured.complete:
            failure = None
        elif failure is None:
            failure = AttemptFailed(Outcome.SERVER_ERROR, captured.error or "the stream ended without its end")
        await self._release(opened, complete=failure is None)  # before its slot and its place are others'
        total = failure is not None and self._endings.is_total(failure)
        if self._cut and failure is not None and not self._is_unheard():
            await self._refuse_cut()
        elif self._is_unheard() or (failure is not None and not total and self._is_left(failure)):
            self._endings.mark_gone()
            self._tries.end(Outcome.CANCELLED if failure is not None else Outcome.SUCCESS)
            await self._leave(opened, captured)
        elif failure is not None and not total:
            self._tries.end(failure.outcome)
            await self._endings.upstream_failed(captured, opened.reader.delivered_text)
            self._observer.failed(failure, model=self._tries.model)
            await self._refuse(to_error(failure))
        else:
            self._tries.end(Outcome.TIMED_OUT if total else Outcome.SUCCESS)
            await self._end_stream(opened, total=total)

    async def _pump(self, opened: OpenStream) -> AttemptFailed | None:
        """Relays until the provider's end, or the end of our patience; what failed, if anything did."""
        while True:
            try:
                async with self._patience.waiting():
                    if not self._is_unheard():
                        await self._begin()
                    if not opened.reader.ended:
                        await self._copy(opened)
            except TimeoutError:
                # A client that blocked a write and is then given up may leave time for reading on.
                if not self._patience.has_time_left:
                    return AttemptFailed(Outcome.CANCELLED, "nobody waits any more")
                continue
            except AttemptFailed as failure:
                return failure
            return None

    async def _begin(self) -> None:
        """The head of the answer and what has come of it. Who left before it gets nothing, and has had nothing."""
        if not self._reply.started:
            await self._reply.start_stream(self._extra_headers())
        head, self._head = self._head, b""
        if head:
            await self._reply.write(head)

    async def _copy(self, opened: OpenStream) -> None:
        reader, reply = opened.reader, self._reply
        async for data in opened.chunks:
            if self._look_for_client():
                await asyncio.sleep(0)  # by its policy, this may end here: what came now was for nobody
            out = reader.feed(data)
            if out and not self._is_unheard():
                await reply.write(out)
            if reader.ended:
                return
        if isinstance(reader, BareStream):
            reader.at_end()

    async def _end_stream(self, opened: OpenStream, *, total: bool) -> None:
        captured, reader = opened.reader.finish(), opened.reader
        use = await self._endings.use(captured, reader.delivered_text)
        try:
            async with self._patience.waiting():
                await self._reply.flush()
        except TimeoutError:
            if not self._cut:
                self._endings.mark_gone()
        self._look_for_client()
        if self._is_unheard():
            await self._endings.client_gone(captured, reader.delivered_text)
            return
        if self._is_cut_off():
            await self._refuse_cut()
            return
        last = reader.closing(tokens=use.tokens, cost=self._endings.cost(use), cut=total)
        await self._keep(last, self._endings.finished(use))
        # From here to the write of the last bytes nothing else runs.
        self._endings.complete(use)
        if not self._endings.is_gone():
            await self._reply.end(last)

    async def _leave(self, opened: OpenStream, captured: Captured) -> None:
        """The end of a stream that was cut when its client had left. With a key, what came of it is the answer."""
        ending = await self._endings.left(captured, opened.reader.delivered_text)
        if ending.charged:
            cut = TollbridgeError(Code.UNAVAILABLE, "The answer was cut after its client had left.")
            await self._keep(self._reply.last_words(cut), ending)
        self._endings.close(ending)

    async def _release(self, opened: OpenStream, *, complete: bool) -> None:
        """Waits for the end of a whole answer, so that its connection can be used again; else closes it."""
        try:
            if complete:
                async with asyncio.timeout(RELEASE_S):
                    async for _ in opened.chunks:
                        continue
        except (TimeoutError, AttemptFailed) as error:
            self._relay.log.debug("connection_not_reused", reason=str(error))
        finally:
            opened.response.close()

    async def _note_gone(self, opened: OpenStream) -> None:
        try:
            await self._endings.note_gone(opened.reader.finish(), opened.reader.delivered_text)
        except OSError as error:
            self._relay.log.error("spool_failed", request_id=self._request_id, reason=str(error))

    # Ends.

    def _look_for_client(self) -> bool:
        """Whether the client turns out to have left just now: after a stop its leaving is found together with the
        provider's bytes, and we would be told of it when they are long counted as delivered."""
        if self._endings.is_gone() or not self._reply.has_left():
            return False
        self.client_gone()
        return True

    def _is_cut_off(self) -> bool:
        """Whether the client of what we were to cut has left: it does not get the end that had come all the same."""
        return self._cut and self._turn is None and self._reply.has_left()

    def _is_unheard(self) -> bool:
        """Whether what comes now is for nobody: the client has left and can't ask for it again."""
        return self._turn is None and self._endings.is_gone()

    def _is_left(self, failure: AttemptFailed) -> bool:
        """Whether what failed just now is for the client to answer for: with a key, only our limit for reading on."""
        if self._turn is not None and self._endings.is_gone():
            return failure.outcome is Outcome.CANCELLED
        return self._endings.is_gone() or self._reply.was_blocked()

    async def _keep(self, rest: bytes, ending: Ending, *, headers: list[Header] | None = None) -> None:
        """With an idempotency key: keeps the answer, and the charge with it, before either is final."""
        event = self._tab.preview(ending, now_s=self._loop.time()) if self._turn is not None else None
        if self._turn is not None and event is not None:
            await self._turn.keep(rest, event, headers=headers)

    async def _refuse(self, error: TollbridgeError, *, ours: bool = False) -> None:
        """The end of a request that gets no (more) answer: its tab first, then the error."""
        self._endings.refused(error, ours=ours)
        if not self._endings.is_gone():
            await self._reply.refuse(error)

    async def _refuse_cut(self) -> None:
        error = TollbridgeError(Code.UNAVAILABLE, "This server had to cut off this answer.", retry_after_s=1)
        await self._refuse(error, ours=True)

    def _extra_headers(self) -> list[Header]:
        return self._operation.answer_headers(self._request, self._tab.route, self._tries.allowance)
