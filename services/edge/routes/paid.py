"""The paid endpoints that answer at once: the hot path, a bare ASGI callable for each operation.

The connection's own task reads the request, hands it to an exchange, and then only listens for the client's leaving.
uvicorn's `receive` returns when the client has gone and also when the answer is complete, so that listening ends by
itself either way.
"""

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Annotated, Any
from uuid import UUID

import msgspec
import structlog

from chassis.errors import Code, TollbridgeError
from chassis.telemetry import Span, checked_traceparent
from services.edge.bodies.request_body import ClientLeft, aside, read_body
from services.edge.http.body_room import BodyShare
from services.edge.http.door import Visit
from services.edge.http.limit_headers import LimitNote
from services.edge.http.protocol import has_left_of
from services.edge.http.reply import Reply
from services.edge.idempotency.answers import KeptAnswer
from services.edge.idempotency.claims import fingerprint, key_of
from services.edge.idempotency.keyed_request import Turn
from services.edge.limits.estimate import estimated_tokens
from services.edge.limits.gate import Admitted
from services.edge.limits.terms import Kind, Terms
from services.edge.metrics import UNKNOWN_MODEL
from services.edge.owners import Authority
from services.edge.paid.admission import api_key_of
from services.edge.paid.exchange import Exchange
from services.edge.paid.max_cost import max_cost_of
from services.edge.paid.operation import Operation
from services.edge.paid.paid_request import PaidRequest
from services.edge.paid.relay import Relay
from services.edge.spending.settlement import Facts
from services.edge.surfaces import Surface

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
CLIENT_CLOSED_REQUEST = 499


class PaidRoute:
    """Answers one operation on every surface; renders its own errors in the surface's dialect."""

    def __init__(self, *, operation: Operation, relay: Relay) -> None:
        self._operation = operation
        self.voice = operation.voice
        self._relay = relay
        self._tools = relay.tools
        self._log = structlog.get_logger()

    async def __call__(
        self, scope: Scope, receive: Receive, send: Send, *, surface: Surface, request_id: str
    ) -> Receive | None:
        """Serves one request; returns when it has ended, also for a client that has left. One that runs as a task is
        not served here: what is returned reads its body again."""
        loop = asyncio.get_running_loop()
        arrived_s = loop.time()
        exchange: Exchange | None = None
        job: _Job | None = None
        model, ended_s = UNKNOWN_MODEL, 0.0
        share, visit = self._relay.bodies.share(), None

        dialect = self._operation.voice(surface.dialect)
        reply = Reply(
            send=send,
            dialect=dialect,
            request_id=request_id,
            awake=self._relay.awake,
            has_left=has_left_of(scope),
        )
        parent = traceparent_of(scope["headers"])
        with self._tools.tracer.span("edge.request", parent=parent, kind="server", request_id=request_id) as span:
            try:
                visit = await self._relay.door.admit()
                exchange = await self._admit(
                    scope,
                    receive,
                    surface=surface,
                    reply=reply,
                    share=share,
                    visit=visit,
                    request_id=request_id,
                    arrived_s=arrived_s,
                    span=span,
                )
                if exchange is not None:
                    await self._serve(exchange, receive, reply)
            except _Job as task:
                job = task
            except _Unread as found:
                span.fail(found.error)
                await reply.refuse(found.error)
                ended_s = loop.time()
                model = await self._named(found.body)
            except TollbridgeError as error:
                span.fail(error)
                await reply.refuse(error)
            except ClientLeft:
                span.set(client_left=True)
            except Exception as error:  # noqa: BLE001  logged whole; the client gets an answer
                self._log.exception("request_failed", request_id=request_id)
                span.fail(error)
                if not reply.started:
                    await reply.refuse(TollbridgeError(Code.INTERNAL, "Something went wrong on our side."))
            finally:
                share.end()
                if visit is not None:
                    visit.leave()
                if job is None:
                    model = exchange.model if exchange is not None else model
                    self._note(model, reply, span, seconds=(ended_s or loop.time()) - arrived_s, arrived_s=arrived_s)
        return job.reader(receive) if job is not None else None

    async def _admit(
        self,
        scope: Scope,
        receive: Receive,
        *,
        surface: Surface,
        reply: Reply,
        share: BodyShare,
        visit: Visit,
        request_id: str,
        arrived_s: float,
        span: Span,
    ) -> Exchange | None:
        """Who asks, then what: a body is read only for those who may send one. None when it was answered before."""
        started_at_us = time.time_ns() // 1000
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        trace = span.traceparent or traceparent_of(headers)
        if not self._tools.settlement.has_room:
            raise TollbridgeError(Code.OVERLOADED, "Please try again shortly.", retry_after_s=1)
        admission, api_key = self._tools.admission, api_key_of(headers)
        client_ip = scope["client"][0] if scope.get("client") else ""
        remembered = admission.remembered(api_key=api_key, client_ip=client_ip)
        if remembered is not None:
            self._know(reply, remembered)  # who is over a limit is told so before waiting for a place
        await visit.begin()
        authority = await admission.authorize(api_key=api_key, client_ip=client_ip, traceparent=trace)
        terms = self._know(reply, authority)
        reading = read_body(receive, headers, most_bytes=self._operation.most_bytes, share=share)
        body = await visit.outside(reading)
        if self._operation.is_job(body, headers):
            raise _Job(body)
        try:
            parsed = await aside(body, self._operation.parse, body, headers)
        except TollbridgeError as error:
            raise _Unread(error, body) from error
        request = dataclasses.replace(parsed, max_cost_nano_usd=max_cost_of(headers))
        turn = await self._turn(scope, request.body, authority=authority, reply=reply, request_id=request_id)
        if isinstance(turn, KeptAnswer):
            await reply.replay(status=turn.status, headers=turn.headers, body=turn.body)
            return None
        admitted = None if terms is None else await self._let_in(terms, request, turn)
        facts = Facts(
            request_id=turn.request_id if turn is not None else UUID(request_id),
            customer_id=authority.customer_id,
            key_id=authority.key_id,
            operation=self._operation.name,
            stream=request.stream,
            started_at_us=started_at_us,
            arrived_s=arrived_s,
            traceparent=trace,
        )
        return Exchange(
            relay=self._relay,
            reply=reply,
            operation=self._operation,
            request=request,
            facts=facts,
            authority=authority,
            asked=visit.through,
            include_usage=request.include_usage or surface.dialect.always_usage_chunk,
            turn=turn,
            admitted=admitted,
        )

    def _know(self, reply: Reply, authority: Authority) -> Terms | None:
        """From now on the reply knows whose it is. Raises RATE_LIMIT_EXCEEDED, CONCURRENCY_LIMIT_EXCEEDED."""
        reply.key_id = authority.key_id
        terms = authority.limits
        if terms is not None:
            reply.limits = LimitNote(self._tools.limits, terms)
            self._tools.limits.check(terms)
        return terms

    async def _let_in(self, terms: Terms, request: PaidRequest, turn: Turn | None) -> Admitted:
        """Counts the request against its caller's limits; of one that is refused its key is free again."""
        tools = self._tools
        try:
            tokens = await estimated_tokens(request, tools.catalogue) if terms.has(Kind.TOKENS) else 0
            return await tools.limits.admit(terms, tokens=tokens)
        except BaseException:
            if turn is not None:
                await turn.end(charged=False)
            raise

    async def _turn(
        self, scope: Scope, body: bytes, *, authority: Authority, reply: Reply, request_id: str
    ) -> Turn | KeptAnswer | None:
        """With an idempotency key: the turn to run it, or the answer that it had. The reply is then that request's."""
        key = key_of(scope["headers"])
        if key is None:
            return None
        found = await self._tools.idempotency.begin(
            customer_id=authority.customer_id,
            key=key,
            body_hash=fingerprint(method=scope["method"], path=scope["path"], body=body),
            call_id=request_id,
        )
        reply.serve_as(str(found.request_id), found.before(reply.send) if isinstance(found, Turn) else None)
        return found

    async def _serve(self, exchange: Exchange, receive: Receive, reply: Reply) -> None:
        task = self._relay.start(exchange.run(), cut=exchange.cut)
        listening = asyncio.timeout(None)

        def on_end(_: object) -> None:
            # An exchange that gave its client up leaves the answer unfinished, which `receive` would not tell.
            if not reply.finished and listening.when() is None and not listening.expired():
                with contextlib.suppress(RuntimeError):  # no longer listening
                    listening.reschedule(0)

        task.add_done_callback(on_end)
        try:
            with contextlib.suppress(TimeoutError):
                async with listening:
                    while (await receive())["type"] != "http.disconnect":
                        continue
            exchange.client_gone()
            await asyncio.wait([task])
        except asyncio.CancelledError:
            # The server's grace is over. The exchange's own task is not ours to cancel: it is told to end.
            exchange.cut()
            raise

    async def _named(self, body: bytes) -> str:
        """The model that a refused body names, for whoever counts; not of forms."""
        try:
            named = await aside(body, _NAMED.decode, body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return UNKNOWN_MODEL
        return await self._tools.catalogue.id_of(named.model) or UNKNOWN_MODEL

    def _note(self, model: str, reply: Reply, span: Span, *, seconds: float, arrived_s: float) -> None:
        status = reply.status or CLIENT_CLOSED_REQUEST
        span.set(model=model, status=status)
        metrics = self._tools.metrics
        metrics.request(model=model, status=status, seconds=seconds)
        if reply.error is not None:
            metrics.error(reply.error)
            self._tools.refusals.count(reply.key_id, reply.error)
        if reply.first_byte_s is not None:
            metrics.first_byte(model=model, seconds=reply.first_byte_s - arrived_s)


class _Named(msgspec.Struct, frozen=True):
    model: Annotated[str, msgspec.Meta(max_length=256)]


_NAMED = msgspec.json.Decoder(_Named)


class _Unread(Exception):
    """A body that is refused, and why."""

    def __init__(self, error: TollbridgeError, body: bytes) -> None:
        super().__init__("this body is refused")
        self.error, self.body = error, body


class _Job(Exception):
    """A request that runs as a task."""

    def __init__(self, body: bytes) -> None:
        super().__init__("this runs as a task")
        self._body: bytes | None = body

    def reader(self, receive: Receive) -> Receive:
        """A `receive` that gives the body once more, and then what else comes."""

        async def again() -> MutableMapping[str, Any]:
            body, self._body = self._body, None
            return await receive() if body is None else {"type": "http.request", "body": body, "more_body": False}

        return again


def traceparent_of(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The client's W3C trace context; empty when there is none, or none that is well formed."""
    value = next((value for name, value in headers if name == b"traceparent"), b"")
    return checked_traceparent(value.decode("latin-1"))
