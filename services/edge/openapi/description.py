"""What an endpoint says of itself: the one place that `/openapi.json` and `/docs` take it from.

A route of FastAPI has its description in `openapi_extra` (`described`), an operation of the hot path in its `about`.
Bodies and answers are types: of a body the one that it is decoded by, of an answer the one that mypy holds the route
to. What an endpoint may refuse with is told by our codes; each dialect makes statuses and bodies of them.
"""

import dataclasses
from typing import Annotated, Any, Generic, Literal, TypedDict, TypeVar

from msgspec import Meta

from chassis.errors import Code

T = TypeVar("T")

Access = Literal["key", "list", "admin", "open"]
"""`key`: an API key; `list`: a key unless the surface's models are public; `admin`: the admin token."""

USD = Annotated[str, Meta(pattern=r"^-?[0-9]+\.[0-9]{9}$", description="USD", examples=["4.123456789"])]
TIME = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
MONEY = Annotated[str, Meta(pattern=r"^[0-9]{1,6}(\.[0-9]{1,9})?$", examples=["0.05"])]
PAGE_SIZE = Annotated[int, Meta(ge=1, le=200)]
UUID = Annotated[str, Meta(extra_json_schema={"format": "uuid"})]
ID_OR_NOTHING = Annotated[str, Meta(pattern="^([0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})?$")]
"""As a filter: empty is as if it were left out."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A query parameter or header. `shape` is a type."""

    name: str
    about: str
    shape: object = str
    is_header: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Media:
    """One more content type of a good answer, with a type that says how it looks."""

    content_type: str
    shape: object = str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """An endpoint. `name` is its operationId, `example` a body as it may look.

    `prefix` stands before the names of the types that are its body's alone. `answer` is the JSON of a good answer, None
    without any; `media` are what it may be besides, `headers` what may stand in its head, `statuses` further ones that
    come with the same. `others` are statuses that say something else, and what it is. `refuses` are the codes
    beyond those that every endpoint of its access has.
    """

    name: str
    tag: str
    summary: str
    about: str = ""
    access: Access = "key"
    prefix: str = ""
    body: object = None
    form: object = None
    example: object = None
    answer: object = None
    status: int = 200
    statuses: tuple[int, ...] = ()
    others: tuple[tuple[int, str], ...] = ()
    media: tuple[Media, ...] = ()
    parameters: tuple[Parameter, ...] = ()
    headers: tuple[Parameter, ...] = ()
    refuses: frozenset[Code] = frozenset()

    @property
    def codes(self) -> frozenset[Code]:
        """All that it may refuse with."""
        return self.refuses | _ALWAYS | _BY_ACCESS[self.access] | (_WITH_BODY if self.body or self.form else set())


_ALWAYS = frozenset({Code.INTERNAL})
ASKING = frozenset({Code.INVALID_REQUEST, Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.OVERLOADED})
"""What whoever asks another service may be refused with."""
_WITH_BODY = frozenset({Code.REQUEST_TOO_LARGE})
_OF_KEYS = ASKING | frozenset(
    {Code.INVALID_API_KEY, Code.CUSTOMER_SUSPENDED, Code.ADDRESS_NOT_ALLOWED, Code.RATE_LIMIT_EXCEEDED}
)
"""The last of them also where nothing is limited: an address that sends many wrong keys."""
_BY_ACCESS: dict[Access, frozenset[Code]] = {
    "key": _OF_KEYS,
    "list": _OF_KEYS,
    "admin": ASKING | frozenset({Code.INVALID_API_KEY}),
    "open": frozenset(),
}

PAID = frozenset(
    {
        Code.MODEL_NOT_FOUND,
        Code.MODEL_NOT_ALLOWED,
        Code.MAX_COST_EXCEEDED,
        Code.PROVIDER_REJECTED,
        Code.CONFLICT,
        Code.IDEMPOTENCY_MISMATCH,
        Code.INSUFFICIENT_CREDITS,
        Code.SPEND_CAP_REACHED,
        Code.BALANCE_RESERVED,
        Code.CONCURRENCY_LIMIT_EXCEEDED,
        Code.PROVIDER_ERROR,
        Code.PROVIDER_NOT_CONFIGURED,
    }
)
"""What a request that costs money may be refused with, besides what is said for all."""

IDEMPOTENCY_KEY = Parameter(
    name="Idempotency-Key",
    about="The same key and body run once and are answered, and charged, once.",
    shape=Annotated[str, Meta(pattern=r"^[!-~]([ -~]{0,253}[!-~])?$")],
    is_header=True,
)
MAX_COST = Parameter(
    name="X-Max-Cost",
    about="USD. A request that could cost more is refused before it runs: 400 `max_cost_exceeded`.",
    shape=MONEY,
    is_header=True,
)
REPLAYED = Parameter(
    name="idempotency-replayed",
    about="This is the answer that the Idempotency-Key had before.",
    shape=Literal["true"],
    is_header=True,
)
CLAMPED = Parameter(
    name="x-tollbridge-max-tokens",
    about="The output was limited to this: by the model, or by the credits that were left.",
    shape=int,
    is_header=True,
)
DROPPED = Parameter(
    name="x-tollbridge-dropped-tools",
    about="These tools, which a provider would run, were not told to the model.",
    shape=str,
    is_header=True,
)
DROPPED_FIELDS = Parameter(
    name="x-tollbridge-dropped-fields",
    about="These fields mean nothing to the model's provider, so that it was not told of them.",
    shape=str,
    is_header=True,
)
LIMIT = Parameter(name="limit", about="Rows of a page; 50 without it.", shape=PAGE_SIZE)
AFTER = Parameter(name="after", about="`next` of the page before.", shape=ID_OR_NOTHING)
PAGE = (LIMIT, AFTER)


class Page(TypedDict, Generic[T]):
    """A page of a list; `next` is what `after` takes for the following one, null on the last."""

    object: Literal["list"]
    data: list[T]
    has_more: bool
    next: str | None


_KEY = "described"


def described(about: Description) -> dict[str, Any]:
    """`openapi_extra` of a route."""
    return {_KEY: about}


def description_of(extra: dict[str, Any] | None) -> Description | None:
    """What `described` wrote there."""
    found = (extra or {}).get(_KEY)
    return found if isinstance(found, Description) else None
