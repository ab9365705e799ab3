"""A paid endpoint, described: where it is, how its body is read, what serves it, how its errors look.

All of them have the same life (`routes/paid.py`, `exchange.py`); what differs is data here. `operations.py` is the
table. Adding one is a parser, a wire per provider protocol, and a line in that table.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence

from chassis.errors import Code, TollbridgeError
from services.edge.bodies.request_body import MAX_BODY_BYTES
from services.edge.dialects import Dialect
from services.edge.openapi.description import Description
from services.edge.paid.admission import Allowance
from services.edge.paid.paid_request import PaidRequest
from services.edge.wires.wire import Wire
from upstream.openai.costly import refuse_costly
from upstream.route import Route, WireProtocol

DROPPED_FIELDS = b"x-tollbridge-dropped-fields"
RefuseCostly = Callable[..., None]
"""`(fields, *, rates)`: raises INVALID_REQUEST for a field that costs more than the rates price."""
Parse = Callable[[bytes, Iterable[tuple[bytes, bytes]]], PaidRequest]
"""Makes a request of a body and its headers. Raises INVALID_REQUEST with `param` where a field is to blame."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One paid endpoint.

    `name` is its name in the request log, `category` the kind of model that serves it, in router's words. `voice` turns
    a surface's dialect into the one that this endpoint's clients understand. `refuse_costly` is what its wires check
    first, for whoever only asks for the price. `left_out` names fields that a provider is not told. `is_job` says of a
    body and its headers that this runs as a task: a route of FastAPI at the same path takes it on.
    """

    name: str
    path: str
    category: str
    about: Description
    parse: Parse
    wires: Mapping[WireProtocol, Wire]
    voice: Callable[[Dialect], Dialect] = lambda dialect: dialect
    most_bytes: int = MAX_BODY_BYTES
    refuse_costly: RefuseCostly = refuse_costly
    left_out: Callable[[PaidRequest, Route], Sequence[str]] = lambda request, route: ()
    is_job: Callable[[bytes, Iterable[tuple[bytes, bytes]]], bool] = lambda body, headers: False

    def answer_headers(
        self, request: PaidRequest, route: Route | None, allowance: Allowance | None
    ) -> list[tuple[bytes, bytes]]:
        """Tells the client what was left out, at once and on the way to this provider, and how it is limited."""
        headers = list(request.answer_headers)
        names = self.left_out(request, route) if route is not None else ()
        if names:
            headers.append((DROPPED_FIELDS, ", ".join(names).encode()))
        return headers if allowance is None else [*headers, *allowance.answer_headers]

    def wire_of(self, route: Route) -> Wire:
        """The wire to a route's provider. Raises PROVIDER_NOT_CONFIGURED for one that does not offer this."""
        wire = self.wires.get(route.protocol)
        if wire is None:
            message = f"The provider of {route.model!r} does not offer {self.path}."
            raise TollbridgeError(Code.PROVIDER_NOT_CONFIGURED, message)
        return wire
