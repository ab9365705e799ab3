"""Edge's front door: gives every request its id and surface, and sends it to the hot path or to FastAPI.

The hot path (`PaidRoute`) is a bare ASGI callable, since a FastAPI route costs three times as much per request and six
times as much per stream. FastAPI serves all else. Public paths are seen by FastAPI without their prefix, so that one
set of routes serves every surface, and a changed surface table takes effect at the next request.
"""

import dataclasses
import ipaddress
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import iter_route_contexts
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException as StarletteHTTPException

from chassis.errors import Code, TollbridgeError
from chassis.ids import uuid7
from chassis.telemetry import Tracer, checked_traceparent
from services.edge.config import EdgeConfig, Network
from services.edge.dialects import DEFAULT, Dialect, RenderedError
from services.edge.http.body_room import BodyRoom
from services.edge.http.cors import is_preflight, preflight, with_origin, with_vary
from services.edge.http.door import Door
from services.edge.http.json_http import SCOPE_KEY, RequestContext, context
from services.edge.http.limit_headers import Told, telling, with_limits
from services.edge.paid.refusals import Refusals
from services.edge.surfaces import ADMIN_PORT_PATHS, OPERATORS_PATHS, Surface, first_step

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
HotRoute = Callable[..., Awaitable[Receive | None]]
"""`(scope, receive, send, *, surface, request_id)`: answers everything itself, errors too; or it returns a way to read
the body again, for FastAPI to answer. One with other words than the surface's has them as its `voice`, and so has
what is below its path."""
Voice = Callable[[Dialect], Dialect]

HEAD_KEY = "tollbridge.head"
OWN_SURFACE = Surface(prefix="", dialect=DEFAULT, models_public=False, without=frozenset())
"""What is outside every surface (`/health`, `/admin`) speaks the default dialect."""


class EdgeApp:
    """The ASGI application. `config` is replaced whole when the file changes; running requests keep their own."""

    def __init__(
        self,
        *,
        config: EdgeConfig,
        public: FastAPI,
        own: FastAPI,
        hot: Mapping[tuple[str, str], HotRoute],
        tracer: Tracer,
        bodies: BodyRoom | None = None,
        refusals: Refusals | None = None,
        door: Door | None = None,
        has_admin_port: bool = False,
    ) -> None:
        self.config = config
        self._elsewhere = OPERATORS_PATHS if has_admin_port else frozenset()
        self._tracer = tracer
        self._public = public
        self._own = own
        self._hot = hot
        self._bodies = bodies or BodyRoom()
        self._refusals = Refusals() if refusals is None else refusals
        self._door = door or Door(clock=time.monotonic)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request of the public port."""
        scope = self._enter(scope)
        request_id, path = str(uuid7()), str(scope["path"])
        found = self.config.surfaces.find(path)
        if found is None:
            is_here = first_step(path) not in self._elsewhere
            await self._serve_own(scope, receive, send, is_here=is_here, request_id=request_id)
            return
        surface, rest = found
        origin = self.config.cors.allowed(scope["headers"])
        if origin and is_preflight(scope["method"], scope["headers"]):
            headers = [(b"x-request-id", request_id.encode()), *preflight(origin, scope["headers"])]
            await send_rendered(send, RenderedError(status=204, headers=headers, body=b""))
            return
        if origin:
            send = with_origin(send, origin)
        elif self.config.cors.varies:
            send = with_vary(send)
        if surface.dialect.always_rate_limits:
            send = with_limits(send)
        if surface.hides(rest):
            error = TollbridgeError(Code.NOT_FOUND, f"There is nothing at {path[:200]}.")
            await send_rendered(send, self._dialect(surface, rest).render_error(error, request_id=request_id))
            return
        hot = self._hot.get((scope["method"], rest))
        if hot is not None:
            again = await hot(scope, receive, send, surface=surface, request_id=request_id)
            if again is None:
                return
            receive = again
        allowed = {method: route for (method, hot_path), route in self._hot.items() if hot_path == rest}
        if allowed and hot is None:
            error = TollbridgeError(Code.METHOD_NOT_ALLOWED, f"{scope['method']} is not possible at {path[:200]}.")
            rendered = self._dialect(surface, rest).render_error(error, request_id=request_id)
            rendered.headers.append((b"allow", ", ".join(allowed).encode()))
            await send_rendered(send, rendered)
            return
        dialect = self._dialect(surface, rest)
        surface = surface if dialect is surface.dialect else dataclasses.replace(surface, dialect=dialect)
        await self._serve_page(scope, receive, send, surface=surface, rest=rest, request_id=request_id)

    async def serve_admin(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request of the admin port, which has nothing for customers."""
        scope = self._enter(scope)
        is_here = first_step(scope["path"]) in ADMIN_PORT_PATHS
        await self._serve_own(scope, receive, send, is_here=is_here, request_id=str(uuid7()))

    def _enter(self, scope: Scope) -> Scope:
        if scope["type"] != "http":
            raise RuntimeError(f"edge serves http, not {scope['type']}")
        if scope["method"] == "HEAD":
            scope = {**scope, "method": "GET", HEAD_KEY: True}  # to everything here; the server leaves the body out
        scope["client"] = (client_address(scope, self.config.trusted_proxies), 0)
        return scope

    async def _serve_own(self, scope: Scope, receive: Receive, send: Send, *, is_here: bool, request_id: str) -> None:
        if is_here:
            await self._dispatch(self._own, scope, receive, send, surface=OWN_SURFACE, request_id=request_id)
            return
        error = TollbridgeError(Code.NOT_FOUND, f"There is nothing at {scope['path'][:200]}.")
        await send_rendered(send, DEFAULT.render_error(error, request_id=request_id))

    async def _serve_page(
        self, scope: Scope, receive: Receive, send: Send, *, surface: Surface, rest: str, request_id: str
    ) -> None:
        inner = {**scope, "path": rest, "raw_path": rest.encode(), "root_path": ""}
        parent = checked_traceparent(Headers(scope=scope).get("traceparent", ""))
        visit = None
        try:
            visit = await self._door.admit()
            await visit.begin()
            with self._tracer.span("edge.request", parent=parent, kind="server", request_id=request_id) as span:
                trace = span.traceparent or parent
                await self._dispatch(
                    self._public, inner, receive, send, surface=surface, request_id=request_id, traceparent=trace
                )
        except TollbridgeError as error:  # of the door: a page answers its own
            await send_rendered(send, surface.dialect.render_error(error, request_id=request_id))
            self._count_refusal(scope, "", error.code)
        finally:
            if visit is not None:
                visit.leave()

    def _dialect(self, surface: Surface, rest: str) -> Dialect:
        """The words of the path `rest`: the surface's, or those of the hot route that it is at or below."""
        for (_, hot_path), route in self._hot.items():
            voice: Voice | None = getattr(route, "voice", None)
            if voice is not None and f"{rest}/".startswith(f"{hot_path}/"):
                return voice(surface.dialect)
        return surface.dialect

    async def _dispatch(
        self,
        app: FastAPI,
        scope: Scope,
        receive: Receive,
        send: Send,
        *,
        surface: Surface,
        request_id: str,
        traceparent: str = "",
    ) -> None:
        share, told = self._bodies.share(), Told()
        scope[SCOPE_KEY] = RequestContext(
            surface=surface,
            request_id=request_id,
            client_ip=scope["client"][0],
            public_url=self.config.public_url,
            traceparent=traceparent,
            is_head=HEAD_KEY in scope,
            body=share,
            told=told,
        )
        try:
            await app(scope, receive, telling(send, told))
        finally:
            share.end()
            told.end()
            if told.refusal is not None and surface is not OWN_SURFACE:
                self._count_refusal(scope, told.key_id, told.refusal)

    def _count_refusal(self, scope: Scope, key_id: str, code: Code) -> None:
        if scope["method"] == "POST":  # what reads pages is no request of the request log
            self._refusals.count(key_id, code)


def new_fastapi() -> FastAPI:
    """A FastAPI application whose errors are the surface's dialect's, whatever raised them."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    app.add_exception_handler(TollbridgeError, _on_raised)
    app.add_exception_handler(StarletteHTTPException, _on_http_exception)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(Exception, _on_unexpected)
    return app


async def send_rendered(send: Send, rendered: RenderedError) -> None:
    """Sends a rendered error as a whole answer."""
    await send(
        {"type": "http.response.start", "status": rendered.status, "headers": rendered.headers},
    )
    await send({"type": "http.response.body", "body": rendered.body})


def client_address(scope: Scope, trusted: tuple[Network, ...]) -> str:
    """The client's address: the socket's, or the last untrusted hop of X-Forwarded-For behind a trusted proxy."""
    peer = scope["client"][0] if scope.get("client") else ""
    if not trusted or not _is_trusted(peer, trusted):
        return peer
    hops = [value.decode("latin-1") for name, value in scope["headers"] if name == b"x-forwarded-for"]
    for hop in reversed(",".join(hops).split(",")):
        address = hop.strip()
        if not _is_address(address):
            return peer
        if not _is_trusted(address, trusted):
            return address
    return peer


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_trusted(text: str, trusted: tuple[Network, ...]) -> bool:
    if not _is_address(text):
        return False
    address = ipaddress.ip_address(text)
    return any(address in network for network in trusted)


async def _on_raised(request: Request, error: Exception) -> Response:
    if isinstance(error, TollbridgeError) and error.code is Code.METHOD_NOT_ALLOWED:  # not the client's: an owner's
        message = "A service that this needs runs an older version."
        error = TollbridgeError(Code.UNAVAILABLE, message, retry_after_s=1)
    return await _on_tollbridge_error(request, error)


async def _on_tollbridge_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, TollbridgeError):
        raise error
    found = context(request)
    found.told.refusal, found.told.key_id = error.code, found.told.key_id or error.details.get("key_id", "")
    rendered = found.surface.dialect.render_error(_of_path(request, error), request_id=found.request_id)
    response = Response(content=rendered.body, status_code=rendered.status)
    response.raw_headers = rendered.headers
    return response


def _of_path(request: Request, error: TollbridgeError) -> TollbridgeError:
    """An id in a path that can't be one is an id that nobody has."""
    param = str(error.details.get("param", ""))
    if error.code is not Code.INVALID_REQUEST or param not in request.path_params:
        return error
    return TollbridgeError(Code.NOT_FOUND, f"There is no such {param.removesuffix('_id')}.")


async def _on_http_exception(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, StarletteHTTPException) else 500
    codes = {404: Code.NOT_FOUND, 405: Code.METHOD_NOT_ALLOWED, 413: Code.REQUEST_TOO_LARGE}
    code = codes.get(status, Code.INVALID_REQUEST if status < 500 else Code.INTERNAL)
    path = context(request).surface.prefix + request.scope["path"]
    messages = {
        Code.NOT_FOUND: f"There is nothing at {path[:200]}.",
        Code.METHOD_NOT_ALLOWED: f"{request.method} is not possible at {path[:200]}.",
    }
    message = messages.get(code, "The request could not be understood.")
    response = await _on_tollbridge_error(request, TollbridgeError(code, message))
    if code is Code.METHOD_NOT_ALLOWED:
        response.headers["allow"] = ", ".join(_methods_of(request))
    return response


def _methods_of(request: Request) -> list[str]:
    """What is possible at the request's path. Starlette knows only what the first route there can do."""
    routes = iter_route_contexts(request.app.routes)
    found = {method for each in routes if each.path_regex.match(request.scope["path"]) for method in each.methods or ()}
    return sorted(found)


async def _on_validation_error(request: Request, error: Exception) -> Response:
    problems = error.errors() if isinstance(error, RequestValidationError) else []
    param = str(problems[0]["loc"][-1]) if problems else ""
    refusal = TollbridgeError(
        Code.INVALID_REQUEST,
        f"{param or 'The request'} is not valid.",
        details={"param": param} if param else {},
    )
    return await _on_tollbridge_error(request, refusal)


async def _on_unexpected(request: Request, error: Exception) -> Response:
    # Starlette raises the error again after this answer, so uvicorn's log has the traceback.
    return await _on_tollbridge_error(request, TollbridgeError(Code.INTERNAL, "Something went wrong on our side."))
