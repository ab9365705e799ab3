"""`POST /embeddings`, which providers of OpenAI's protocol have; nobody else's is known here."""

import msgspec

from services.edge.paid.paid_request import PaidRequest
from services.edge.wires.wire import WithoutStreams
from upstream.client import HttpCall
from upstream.openai import embeddings
from upstream.openai.costly import refuse_costly
from upstream.route import Route
from upstream.usage import Answer, UsageLimits


class EmbeddingsOverOpenAI(WithoutStreams):
    """OpenAI's own shape, relayed."""

    def check(self, request: PaidRequest, route: Route) -> None:
        """See Wire."""
        refuse_costly(request.fields, rates=route.price.rates)

    def call(self, request: PaidRequest, route: Route, *, max_tokens: int, request_id: str) -> HttpCall:
        """See Wire."""
        return embeddings.prepare(request.fields, route, request_id=request_id)

    def answer(self, body: bytes, request: PaidRequest, route: Route, *, limits: UsageLimits) -> Answer:
        """See Wire."""
        wanted = request.fields.get("encoding_format")
        as_base64 = isinstance(wanted, msgspec.Raw) and bytes(wanted) == b'"base64"'
        return embeddings.read_answer(body, model=route.model, limits=limits, as_base64=as_base64)
