"""The audit log of the admin API: what changes something is written down before it is done, and how it ended after it.

Auth keeps the log. An action that can't be written down is refused (503) and not done. One whose outcome can't be is
answered as it ended and has none in the log: that it was begun is known. One that was refused because auth was too late
may be in the log all the same, so auth is told that it was refused. Requests that only read are not written down.
Nor is what was refused before it was understood: without the token, or with a body beyond every bound.
"""

import hashlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from decimal import Decimal
from typing import Any, TypedDict

import msgspec
import structlog
from fastapi import APIRouter, Request, Response

from chassis.errors import Code, TollbridgeError
from chassis.pipe import PipeClient
from services.edge.http.json_http import (
    answer,
    body_of,
    context,
    keep_body,
    moment,
    page,
    page_limit,
    rfc3339,
)
from services.edge.openapi.description import PAGE, TIME, Description, Page, Parameter, described
from tollbridge.auth.v1 import auth_pb2

TIMEOUT_S = 3.0
SHORT_TIMEOUT_S = 1.0
"""For telling an auth that doesn't answer that what it was told before was not done."""
HIDDEN = "(hidden)"
LONGEST_BODY = 64 << 10
"""Bytes of a body that is looked into; of a longer one its digest is written down."""
LONGEST_TEXT = 499
"""Characters of a text, or of a path, that are written down."""
LONGEST_PARAMETERS = 8000
_ONLY_READ = frozenset({"GET", "HEAD", "OPTIONS"})
_SECRET = re.compile(
    r".*(?:secret|passwor[dt]|passphrase|credential|token|key|pepper|authorization|cookie|e[-_]?mail|url)s?",
    re.IGNORECASE | re.DOTALL,
)
"""Names of fields that are hidden: secrets, and what names a person, since nothing is ever taken out of the log."""
_OTHERS_SECRET = re.compile(r"\b(?:[srp]k[-_]|whsec_|tba_|xox[a-z]-|gh[a-z]_|AIza|AKIA|eyJ)[-_0-9A-Za-z.]{16,}")
"""What looks like a key of a provider, of a payment provider or of ours for operators, in any text. What looks like one
of our customers' keys auth takes out."""
_CUT_WORD = re.compile(r"[-_0-9A-Za-z.]{1,200}\Z")
_OF_ONE_EDGE = frozenset({"/admin/drain", "/admin/undrain"})
"""What these change is the edge that they reach, so its name is written down with them."""
_KEY = "tollbridge.action"

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class ShownOutcome(TypedDict):
    """How it ended: HTTP's status, or a command's exit code; `code` says why it was refused."""

    at: TIME | None
    status: int
    code: str | None


class Action(TypedDict):
    """What an operator did. Without an outcome it runs, or nobody could write down how it ended."""

    id: str
    at: TIME | None
    actor: str
    address: str | None
    method: str
    path: str
    parameters: dict[str, Any]
    outcome: ShownOutcome | None


LIST = Description(
    name="listAdminActions",
    tag="Admin",
    summary="What operators did",
    about="Newest first. `id` is the request's x-request-id, `actor` a digest of the token, or a user of the CLI.",
    access="admin",
    answer=Page[Action],
    parameters=(
        Parameter(name="actor", about="By this one alone, such as `token:1a2b3c4d`."),
        Parameter(name="method", about="By this method alone; `COMMAND` is the command line's."),
        Parameter(name="path", about="Of paths that begin so."),
        Parameter(name="from", about="Since then.", shape=TIME),
        Parameter(name="to", about="Before then.", shape=TIME),
        *PAGE,
    ),
)


class _Begun:
    """The action of a request, once auth was told of it, and why it was refused afterwards."""

    __slots__ = ("code", "id", "timeout_s")

    def __init__(self) -> None:
        self.id = ""
        self.code = ""
        self.timeout_s = TIMEOUT_S


class Audit:
    """A FastAPI dependency, after the check of access: writes an action down before its route is called."""

    def __init__(self, *, auth: PipeClient, edge: str) -> None:
        self._auth = auth
        self._edge = edge

    async def __call__(self, request: Request) -> AsyncIterator[None]:
        """Raises UNAVAILABLE when it can't be written down."""
        if request.method in _ONLY_READ:
            yield
            return
        body = await body_of(request)
        keep_body(request, body)
        begun: _Begun = request.scope[_KEY]
        begun.id = context(request).request_id
        try:
            await self._begin(request, body)
        except TollbridgeError as error:
            begun.code, begun.timeout_s = Code.UNAVAILABLE.value, SHORT_TIMEOUT_S
            message = "The audit log can't be written, so this was not done."
            raise TollbridgeError(Code.UNAVAILABLE, message, retry_after_s=1) from error
        try:
            yield
        except TollbridgeError as error:
            begun.code = error.code.value
            raise

    async def _begin(self, request: Request, body: bytes) -> None:
        found, path = context(request), request.scope["path"]
        action = auth_pb2.AdminAction(
            id=found.request_id,
            actor=actor_of(request.headers.get("authorization", "")),
            address=found.client_ip[:100],
            method=request.method,
            path=shortened(path.replace("\0", "")),
            parameters=parameters(
                request.query_params.multi_items(), body, edge=self._edge if path in _OF_ONE_EDGE else ""
            ),
        )
        await self._auth.call(
            "RecordAction",
            auth_pb2.RecordActionRequest(action=action),
            auth_pb2.RecordActionResponse,
            timeout_s=TIMEOUT_S,
        )


class AuditedAnswers:
    """ASGI around a site whose routes have `Audit`: writes down how an action ended, before its answer begins."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]], *, auth: PipeClient) -> None:
        self._app = app
        self._auth = auth
        self._log = structlog.get_logger()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        begun = scope[_KEY] = _Begun()

        async def sending(message: Message) -> None:
            if begun.id and message["type"] == "http.response.start":
                await self._end(begun, message["status"])
            await send(message)

        try:
            await self._app(scope, receive, sending)
        except Exception:
            if begun.id:
                begun.code = Code.INTERNAL.value
                await self._end(begun, 500)
            raise

    async def _end(self, begun: _Begun, status: int) -> None:
        action_id, begun.id = begun.id, ""
        request = auth_pb2.RecordOutcomeRequest(
            action_id=action_id, outcome=auth_pb2.AdminOutcome(status=status, code=begun.code)
        )
        try:
            await self._auth.call("RecordOutcome", request, auth_pb2.RecordOutcomeResponse, timeout_s=begun.timeout_s)
        except TollbridgeError as error:
            self._log.warning(
                "outcome_not_recorded", request_id=action_id, status=status, refusal=begun.code, code=error.code.value
            )


def routes(*, auth: PipeClient) -> APIRouter:
    """The route; access is checked by whoever includes it."""
    router = APIRouter()

    @router.get("/audit", openapi_extra=described(LIST))
    async def list_actions(request: Request) -> Response:
        asked = request.query_params
        reply = await auth.call(
            "ListActions",
            auth_pb2.ListActionsRequest(
                after=asked.get("after", ""),
                limit=page_limit(request),
                actor=asked.get("actor", ""),
                method=asked.get("method", ""),
                path=asked.get("path", ""),
                from_us=moment(request, "from"),
                to_us=moment(request, "to"),
            ),
            auth_pb2.ListActionsResponse,
            timeout_s=TIMEOUT_S,
        )
        shown = page([_shown(each) for each in reply.actions], has_more=reply.has_more)
        return answer(shown, request_id=context(request).request_id)

    return router


def actor_of(authorization: str) -> str:
    """Which token it was, in so few digits that the token can't be found by them."""
    token = authorization.partition(" ")[2].strip()
    return f"token:{hashlib.sha256(token.encode()).hexdigest()[:8]}"


def parameters(query: list[tuple[str, str]], body: bytes, *, edge: str = "") -> str:
    """What was asked, as JSON without secrets: those are known by their fields' names. Never too long."""
    asked: dict[str, object] = {"edge": edge} if edge else {}
    if query:
        asked["query"] = {shortened(name): _harmless(name, value) for name, value in query}
    if body:
        asked["body"] = _body(body)
    text = msgspec.json.encode(asked).decode()
    if len(text) <= LONGEST_PARAMETERS:
        return text
    return msgspec.json.encode({"left_out": len(text), "sha256": hashlib.sha256(body).hexdigest()}).decode()


def _body(body: bytes) -> object:
    unread = {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}
    if len(body) > LONGEST_BODY:
        return unread
    try:
        return _harmless("", msgspec.json.Decoder(float_hook=Decimal).decode(body))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ArithmeticError):
        return unread


def _harmless(name: str, value: object) -> object:
    if _SECRET.fullmatch(name):
        return HIDDEN
    if isinstance(value, str):
        return shortened(value)
    if isinstance(value, list):
        return [_harmless("", each) for each in value]
    if isinstance(value, dict):
        return {shortened(key): _harmless(key, each) for key, each in value.items()}
    return value


def shortened(text: str) -> str:
    """Its beginning, up to a whole word: of a key that is cut in two nobody could tell that it was one."""
    if len(text) > LONGEST_TEXT:
        text = _CUT_WORD.sub("", text[:LONGEST_TEXT]) + "…"
    return _OTHERS_SECRET.sub(HIDDEN, text)


def _shown(found: auth_pb2.RecordedAction) -> Action:
    action, outcome = found.action, found.outcome
    ended: ShownOutcome = {"at": rfc3339(outcome.at_us), "status": outcome.status, "code": outcome.code or None}
    return {
        "id": action.id,
        "at": rfc3339(action.at_us),
        "actor": action.actor,
        "address": action.address or None,
        "method": action.method,
        "path": action.path,
        "parameters": msgspec.json.decode(action.parameters, type=dict[str, Any]),
        "outcome": ended if found.HasField("outcome") else None,
    }
