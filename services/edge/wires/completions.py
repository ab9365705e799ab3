"""`POST /completions` of old, which providers of OpenAI's protocol and the sandbox have."""

from services.edge.bodies.completions_request import CompletionRequest
from services.edge.paid.paid_request import PaidRequest
from upstream.client import HttpCall
from upstream.openai import completions
from upstream.openai.costly import refuse_costly
from upstream.route import Route
from upstream.usage import Answer, StreamReader, UsageLimits


class CompletionsOverOpenAI:
    """OpenAI's own shape, relayed."""

    def check(self, request: PaidRequest, route: Route) -> None:
        """See Wire."""
        refuse_costly(request.fields, rates=route.price.rates)

    def call(self, request: PaidRequest, route: Route, *, max_tokens: int, request_id: str) -> HttpCall:
        """See Wire."""
        return completions.prepare(
            request.fields, route, max_tokens=max_tokens, stream=request.stream, request_id=request_id
        )

    def stream(self, request: PaidRequest, route: Route, *, include_usage: bool, limits: UsageLimits) -> StreamReader:
        """See Wire."""
        return completions.CompletionStream(
            model=route.model, include_usage=include_usage, limits=limits, echoed=_echoed(request)
        )

    def answer(self, body: bytes, request: PaidRequest, route: Route, *, limits: UsageLimits) -> Answer:
        """See Wire."""
        return completions.read_answer(body, model=route.model, limits=limits, echoed=_echoed(request))


def _echoed(request: PaidRequest) -> tuple[str, ...]:
    return request.echoed if isinstance(request, CompletionRequest) else ()
