"""Reading and writing JSON on edge's FastAPI routes: bounded bodies, exact money, RFC 3339 times, list pages.

Bodies are decoded by msgspec into structs, so that numbers of money arrive as Decimals and a wrong field is named. The
hot path does not come through here.
"""

import dataclasses
import datetime
from collections.abc import Awaitable, Callable, Mapping, Sequence
from decimal import Decimal
from typing import Protocol, TypeVar

import msgspec
from fastapi import Request, Response

from chassis.errors import Code, TollbridgeError
from pricing.charge import MAX_CHARGE
from pricing.prices import NANO_PER_USD, nano_usd, usd_number
from services.edge.bodies.request_body import MAX_BODY_BYTES, ClientLeft, decode_body, read_body
from services.edge.dialects.dialect import RETRY_AFTER_S
from services.edge.http.body_room import BodyRoom, BodyShare
from services.edge.http.limit_headers import Told
from services.edge.limits.terms import Terms
from services.edge.openapi.description import Page
from services.edge.spending.spend_caps import SpendCap
from services.edge.surfaces import Surface

T = TypeVar("T")
Row = TypeVar("Row", bound=Mapping[str, object])

SCOPE_KEY = "tollbridge"
_BODY_KEY = "tollbridge.body"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RequestContext:
    """What `services.edge.app` found out before it dispatched."""

    surface: Surface
    request_id: str
    client_ip: str
    public_url: str
    """Where clients reach this API, without a trailing slash; empty when the config does not say."""
    traceparent: str
    """The trace to go on with, well formed or empty."""
    is_head: bool = False
    """Whether only the head of the answer is asked for."""
    body: BodyShare = dataclasses.field(default_factory=lambda: BodyRoom().share())
    """What its body may take of the process's memory, until it has been answered."""
    told: Told = dataclasses.field(default_factory=Told)
    """What its answer says of limits, once it is known whose it is."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Whose key it was, the spend caps that bind it, and what is limited, if anything. `models` empty means all."""

    customer_id: str
    key_id: str
    models: frozenset[str]
    caps: tuple[SpendCap, ...] = ()
    limits: Terms | None = None


Identify = Callable[[Request], Awaitable[Caller]]
"""Who sends this request; raises TollbridgeError(INVALID_API_KEY ...)."""


class Forget(Protocol):
    """Voids what this edge keeps of a key or a customer that has just been changed."""

    def __call__(self, *, key_id: str = "", customer_id: str = "") -> None:
        """One of the two."""


def context(request: Request) -> RequestContext:
    """The context that the request was dispatched with."""
    found = request.scope[SCOPE_KEY]
    if not isinstance(found, RequestContext):
        raise TypeError("a request reached a route without its context")
    return found


def link(request: Request, path: str) -> str:
    """An absolute link to a path of the request's surface: below `public_url`, or as this request came in."""
    found = context(request)
    base = found.public_url or str(request.base_url).rstrip("/")
    return f"{base}{found.surface.prefix}{path}"


async def decode(request: Request, kind: type[T]) -> T:
    """The JSON body as `kind`; raises INVALID_REQUEST with `param`, or REQUEST_TOO_LARGE."""
    return parsed(await body_of(request), kind)


async def body_of(request: Request, *, most_bytes: int = MAX_BODY_BYTES) -> bytes:
    """The body, bounded as the hot path's is. Raises REQUEST_TOO_LARGE, INVALID_REQUEST, OVERLOADED."""
    kept: bytes | None = request.scope.get(_BODY_KEY)
    if kept is not None:
        return kept
    try:
        return await read_body(request.receive, request.headers.raw, most_bytes=most_bytes, share=context(request).body)
    except ClientLeft:  # nobody hears this
        raise TollbridgeError(Code.INVALID_REQUEST, "The body did not come whole.") from None


def keep_body(request: Request, body: bytes) -> None:
    """Whoever asks for the body later gets this one, as it was read before its route was called."""
    request.scope[_BODY_KEY] = body


def parsed(body: bytes, kind: type[T]) -> T:
    """JSON as `kind`; raises INVALID_REQUEST with `param`."""
    return decode_body(body, msgspec.json.Decoder(kind))


def answer(payload: object, *, request_id: str, status: int = 200) -> Response:
    """A JSON answer with its request id; a 503 says when to ask again. Raw values are written as they are."""
    again = {"retry-after": str(RETRY_AFTER_S)} if status == 503 else {}
    return Response(
        content=msgspec.json.encode(payload),
        status_code=status,
        media_type="application/json",
        headers={"x-request-id": request_id} | again,
    )


def page(rows: Sequence[Row], *, has_more: bool) -> Page[Row]:
    """A list as every list looks: `next` is what `after` takes for the following page."""
    following = str(rows[-1]["id"]) if has_more and rows else None
    return {"object": "list", "data": list(rows), "has_more": has_more, "next": following}


def page_limit(request: Request, *, otherwise: int = 50, most: int = 200) -> int:
    """`?limit=` from 1 to the most; raises INVALID_REQUEST."""
    text = request.query_params.get("limit", str(otherwise))
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= most):
        raise TollbridgeError(Code.INVALID_REQUEST, f"limit must be 1 to {most}.", details={"param": "limit"})
    return int(text)


def rfc3339(microseconds: int) -> str | None:
    """A time in UTC to the microsecond, None for 0."""
    if microseconds == 0:
        return None
    moment = datetime.datetime.fromtimestamp(microseconds // 1_000_000, tz=datetime.UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{microseconds % 1_000_000:06d}Z"


def to_the_second(microseconds: int) -> str | None:
    """A time in UTC as a whole second, none that is later; None for 0."""
    exact = rfc3339(microseconds)
    return None if exact is None else exact.partition(".")[0] + "Z"


def microseconds(text: str, *, param: str) -> int:
    """An RFC 3339 time as microseconds since the epoch; raises INVALID_REQUEST."""
    try:
        moment = datetime.datetime.fromisoformat(text)
        if moment.tzinfo is None:
            raise ValueError("no offset from UTC")
    except ValueError as error:
        raise TollbridgeError(
            Code.INVALID_REQUEST,
            f"{param} must be a time such as 2027-01-31T12:00:00Z.",
            details={"param": param},
        ) from error
    return int(moment.timestamp()) * 1_000_000 + moment.microsecond


def moment(request: Request, param: str) -> int:
    """A time of the query in microseconds, 0 without one. Raises INVALID_REQUEST."""
    text = request.query_params.get(param, "")
    return microseconds(text, param=param) if text else 0


def amount(usd: Decimal, *, param: str) -> int:
    """USD of a body in nano-USD; raises INVALID_REQUEST when it is finer than a nano-dollar or beyond reason."""
    try:
        value = nano_usd(usd)
    except (ValueError, ArithmeticError) as error:
        raise _refused_amount(usd, param) from error
    if abs(value) > MAX_CHARGE:
        raise _refused_amount(usd, param)
    return value


def _refused_amount(usd: Decimal, param: str) -> TollbridgeError:
    """Says what is wrong with it: no number, too large or too fine."""
    if not usd.is_finite():
        message = f"{param} must be a number."
    elif usd.copy_abs() > Decimal(MAX_CHARGE) / NANO_PER_USD:
        message = f"{param} must be at most {usd_number(MAX_CHARGE)} USD."
    else:
        message = f"{param} has at most nine decimals."
    return TollbridgeError(Code.INVALID_REQUEST, message, details={"param": param})
