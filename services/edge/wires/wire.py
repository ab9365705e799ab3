"""What an exchange asks of the code between a client's endpoint and a provider's protocol: one wire per pair.

A wire is stateless. It knows nothing of money but which fields cost it.
"""

from typing import Protocol

from services.edge.paid.paid_request import PaidRequest
from upstream.client import HttpCall
from upstream.route import Route
from upstream.usage import Answer, StreamReader, UsageLimits


class Wire(Protocol):
    """One endpoint over one provider protocol."""

    def check(self, request: PaidRequest, route: Route) -> None:
        """Raises INVALID_REQUEST for what this protocol can't say or the route does not price."""

    def call(self, request: PaidRequest, route: Route, *, max_tokens: int, request_id: str) -> HttpCall:
        """The provider's call for the client's request, of at most `max_tokens` of output per choice."""

    def stream(self, request: PaidRequest, route: Route, *, include_usage: bool, limits: UsageLimits) -> StreamReader:
        """A reader for the stream that follows, under the public model id."""

    def answer(self, body: bytes, request: PaidRequest, route: Route, *, limits: UsageLimits) -> Answer:
        """The whole answer, read, under the public model id. Raises AttemptFailed."""


class WithoutStreams:
    """A wire for an endpoint whose parser refuses `stream`."""

    def stream(self, request: PaidRequest, route: Route, *, include_usage: bool, limits: UsageLimits) -> StreamReader:
        """Never called."""
        raise RuntimeError("this endpoint has no streams")
