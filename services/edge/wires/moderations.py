"""`POST /moderations`, which providers of OpenAI's protocol have."""

from services.edge.paid.paid_request import PaidRequest
from services.edge.wires.wire import WithoutStreams
from upstream.client import HttpCall
from upstream.openai import moderations
from upstream.openai.costly import refuse_costly
from upstream.route import Route
from upstream.usage import Answer, UsageLimits


class ModerationsOverOpenAI(WithoutStreams):
    """OpenAI's own shape, relayed."""

    def check(self, request: PaidRequest, route: Route) -> None:
        """See Wire."""
        refuse_costly(request.fields, rates=route.price.rates)

    def call(self, request: PaidRequest, route: Route, *, max_tokens: int, request_id: str) -> HttpCall:
        """See Wire."""
        return moderations.prepare(request.fields, route, request_id=request_id)

    def answer(self, body: bytes, request: PaidRequest, route: Route, *, limits: UsageLimits) -> Answer:
        """See Wire."""
        return moderations.read_answer(body, model=route.model, limits=limits)
