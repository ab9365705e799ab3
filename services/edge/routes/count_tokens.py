"""`POST /messages/count_tokens`: how many tokens a request's input is. Needs a key, costs nothing, runs nothing.

A provider that speaks Messages is asked, in an attempt like any other but for its verdict: whatever comes of it says
nothing of how the account answers messages, so router learns nothing. Everywhere else, and where the provider does not
answer, it is our own count: exact for OpenAI's models, near for others', images and files at the model's usual size. A
client that leaves is counted for no further, but for what a thread has begun.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from typing import Any, TypeVar

import msgspec
import structlog

from chassis.errors import Code, TollbridgeError
from chassis.ids import uuid7
from services.edge.bodies.messages_request import parse_count
from services.edge.bodies.request_body import ClientLeft, aside, read_body
from services.edge.dialects.messages import messages_voice
from services.edge.http.body_room import BodyShare
from services.edge.http.limit_headers import LimitNote
from services.edge.http.reply import Reply
from services.edge.owners import Authority
from services.edge.paid.admission import api_key_of
from services.edge.paid.opening import read_whole
from services.edge.paid.paid_request import PaidRequest
from services.edge.paid.relay import Relay
from services.edge.routes.paid import traceparent_of
from services.edge.surfaces import Surface
from services.edge.translate.plain_ids import with_plain_ids
from services.edge.translate.signed_thoughts import with_signed_thoughts
from upstream.anthropic import native
from upstream.anthropic.costly import refuse_costly
from upstream.attempt import ended
from upstream.client import HttpCall
from upstream.outcome import AttemptFailed, Outcome, to_error
from upstream.route import Route, WireProtocol

PATH = "/messages/count_tokens"
CATEGORY = "chat"
ASK_S = 10.0
"""How long a provider is waited for before we count."""

T = TypeVar("T")
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class CountTokens:
    """The endpoint, a bare ASGI callable as its neighbours of the hot path are."""

    def __init__(self, *, relay: Relay) -> None:
        self._tools = relay.tools
        self._bodies, self._door, self._awake = relay.bodies, relay.door, relay.awake
        self.voice = messages_voice
        self._log = structlog.get_logger()

    async def __call__(self, scope: Scope, receive: Receive, send: Send, *, surface: Surface, request_id: str) -> None:
        """Serves one request."""
        dialect = messages_voice(surface.dialect)
        reply = Reply(send=send, dialect=dialect, request_id=request_id, awake=self._awake)
        share, visit = self._bodies.share(), None
        try:
            visit = await self._door.admit()
            await visit.begin()
            tokens = await self._count(scope, receive, reply, request_id=request_id, share=share)
            await reply.look()
            await reply.whole(msgspec.json.encode({"input_tokens": tokens}), ())
        except TollbridgeError as error:
            await reply.refuse(error)
        except ClientLeft:
            return
        except Exception:  # noqa: BLE001  logged whole; the client gets an answer
            self._log.exception("request_failed", request_id=request_id)
            if not reply.started:
                await reply.refuse(TollbridgeError(Code.INTERNAL, "Something went wrong on our side."))
        finally:
            share.end()
            if reply.error is not None:
                self._tools.refusals.count(reply.key_id, reply.error)
            if visit is not None:
                visit.leave()

    async def _count(self, scope: Scope, receive: Receive, reply: Reply, *, request_id: str, share: BodyShare) -> int:
        headers = scope["headers"]
        trace = traceparent_of(headers)
        admission = self._tools.admission
        client_ip = scope["client"][0] if scope.get("client") else ""
        authority = await admission.authorize(api_key=api_key_of(headers), client_ip=client_ip, traceparent=trace)
        reply.key_id = authority.key_id
        if authority.limits is not None:
            reply.limits = LimitNote(self._tools.limits, authority.limits)
        body = await read_body(receive, headers, share=share)
        request = await aside(body, parse_count, body, headers)
        count = self._counted(request, authority, request_id=request_id, trace=trace)
        return await while_there(receive, count)

    async def _counted(self, request: PaidRequest, authority: Authority, *, request_id: str, trace: str) -> int:
        admission = self._tools.admission
        attempts, attempt_id = self._tools.attempts, str(uuid7())
        attempts.begin(attempt_id)
        try:
            route = await self._tools.router.decide(
                request_id=request_id,
                attempt_id=attempt_id,
                model=request.model,
                operation=CATEGORY,
                tried=(),
                traceparent=trace,
            )
        except BaseException as error:
            attempts.undecided(request_id=request_id, attempt_id=attempt_id, error=error)
            raise
        try:
            admission.check_model(authority, route.model)
            is_native = route.protocol is WireProtocol.ANTHROPIC
            rates = route.price.rates
            await aside(request.body, refuse_costly, request.fields, rates=rates, caches=is_native)
            if is_native:
                return await self._asked(request, route, request_id=request_id)
        finally:
            attempts.finish(request_id=request_id, attempt=ended(route, Outcome.CANCELLED))
        return await own_count(request, route)

    async def _asked(self, request: PaidRequest, route: Route, *, request_id: str) -> int:
        """The provider's count, or ours. Raises PROVIDER_REJECTED for what the provider would not read."""
        call = await aside(request.body, _call, request, route, request_id=request_id)
        try:
            async with asyncio.timeout(ASK_S):
                response = await self._tools.providers.send(route, call)
                return native.read_count(await read_whole(response))
        except AttemptFailed as failure:
            if failure.outcome is Outcome.REJECTED:
                raise to_error(failure) from failure
            self._log.info("count_not_answered", request_id=request_id, reason=failure.message)
        except TimeoutError:
            self._log.info("count_not_answered", request_id=request_id, reason="timeout")
        return await own_count(request, route)


def _call(request: PaidRequest, route: Route, *, request_id: str) -> HttpCall:
    fields = with_plain_ids(with_signed_thoughts(request.fields))
    return native.prepare_count(fields, route, request_id=request_id, headers=dict(request.headers))


async def while_there(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """What `work` comes to, as long as its client is there; else it is cancelled. Raises ClientLeft.

    The body must have been read: from then on `receive` says nothing but that the client has left.
    """
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_leave(receive))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientLeft
        return working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _leave(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue


async def own_count(request: PaidRequest, route: Route) -> int:
    """Our count, as a request is charged by where its provider reports nothing."""
    tokens = await asyncio.to_thread(request.prompt_tokens, route.provider_model)
    return min(tokens + request.usual_piece_tokens(route.bounds), request.input_tokens(route.bounds))
