"""What a kind of job is: how its body is read, and how a provider of each protocol makes it. `kinds.py` is the table.

A maker knows one protocol and nothing of claims, money or the choice of a provider. It gets a `Making` (one attempt at
one account), and returns what was made; `workshop.py` does the rest. It fails as every call of a provider does, with
`upstream.outcome.AttemptFailed`, and these say more:

- `JobFailed`: the provider's own job is over without a result. Another account may be asked.
- `AnswerTooLarge`, or `ResultTooLarge` when it is known what was used: it was made, and can't be kept.
- any other failure after `Making.submitted` was called means: it may be going on there. The job is taken up again
  later, at the same account, with `submitted_id` set, and never submitted a second time.
"""

import dataclasses
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Generic, Protocol, TypeVar

from chassis.errors import Code, TollbridgeError
from pricing.tokens import Units
from upstream import calls
from upstream.client import HttpCall, UpstreamClient, UpstreamResponse
from upstream.route import Route, WireProtocol
from upstream.sandbox.provider import Sandbox
from upstream.usage import Captured


class Wanted(Protocol):
    """A body, read: what of it decides how much money is held."""

    @property
    def most(self) -> Units:
        """The most that it can use of what is sold by the piece."""

    def output_tokens(self, max_output: int) -> int:
        """The most output tokens that it can use, of a model that gives so many in one answer."""


W = TypeVar("W", bound=Wanted)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """One file that a provider made. Its type is what its bytes say, whatever the provider calls it."""

    data: bytes = dataclasses.field(repr=False)
    content_type: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """What came of it: the files in order, what they are of what is sold by the piece, and what the provider said."""

    files: tuple[File, ...]
    units: Units
    captured: Captured = dataclasses.field(default_factory=Captured)
    is_counted: bool = False
    """Whether what it says of usage is our count, for the provider said nothing."""


class ResultTooLarge(Exception):
    """The provider has made it, and will be paid for it, but it is larger than what can be kept."""

    def __init__(self, product: Product) -> None:
        super().__init__("the provider's result is too large to be kept")
        self.product = product


class NotWanted(Exception):
    """What was just submitted can't be noted as its job's: that is over, or somebody else's."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Providers:
    """The ways to providers: the network, and the sandbox in this process."""

    client: UpstreamClient
    sandbox: Sandbox

    async def send(self, route: Route, call: HttpCall) -> UpstreamResponse:
        """The answer to a call when it is a success (2xx); its owner closes it. Raises AttemptFailed."""
        return await calls.send(route, call, client=self.client, sandbox=self.sandbox)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Making(Generic[W]):
    """One attempt at one provider account.

    `submitted_id` is the provider's own id of the job when it was submitted before: poll on it. Else submit, and call
    `submitted(id)` before the first poll: it returns once the id is saved, or raises NotWanted; neither may be broken
    off in its middle (`unbroken.py`). `progress(0..1)` costs nothing and may be called at any time.
    """

    task_id: str
    wanted: W
    route: Route
    providers: Providers
    submitted: Callable[[str], Awaitable[None]]
    progress: Callable[[float], None]
    submitted_id: str = ""
    idempotency_key: str = ""

    async def send(self, call: HttpCall) -> UpstreamResponse:
        """As Providers.send, to this attempt's account.

        What it has made for a worker that died before it could save it, a provider that heeds the key hands out again.
        """
        if call.method == "POST" and self.idempotency_key:
            call = dataclasses.replace(call, headers={**call.headers, "idempotency-key": self.idempotency_key})
        return await self.providers.send(self.route, call)


class Maker(Protocol[W]):
    """Makes one kind of thing over one protocol. Has no state: it makes many at once."""

    async def make(self, making: Making[W]) -> Product:
        """Makes it. Raises AttemptFailed and what else the module says; when cancelled it just stops."""

    async def cancel(self, making: Making[W]) -> None:
        """Stops the provider's own job `submitted_id`, which nobody wants any more. Raises AttemptFailed.

        That it has ended, or is unknown, is a success. Without such jobs there is nothing to do.
        """


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Kind(Generic[W]):
    """One kind of job. `name` is also the category of its models and its operation in the request log."""

    name: str
    parse: Callable[[bytes], W]
    """Reads the body. Raises INVALID_REQUEST with `param`."""
    makers: Mapping[WireProtocol, Maker[W]]
    time_to_live_s: float
    """A job that has not ended by then fails."""
    look: Callable[[W], tuple[str | None, str | None]] = lambda _: (None, None)
    """The size and the quality of what is made, on which its price may depend."""
    shown: Callable[[W], Mapping[str, object]] = lambda _: {}
    """What of an order its customer is shown beside the task."""

    def maker_of(self, route: Route) -> Maker[W]:
        """Who makes it at a route's provider. Raises PROVIDER_NOT_CONFIGURED."""
        maker = self.makers.get(route.protocol)
        if maker is None:
            message = f"The provider of {route.model!r} makes no {self.name}."
            raise TollbridgeError(Code.PROVIDER_NOT_CONFIGURED, message)
        return maker


AnyKind = Kind[Any]
"""A kind, by whoever doesn't look into its bodies."""
