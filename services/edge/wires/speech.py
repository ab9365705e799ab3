"""`POST /audio/speech` over providers of OpenAI's protocol: always a stream, of sound or of events."""

from services.edge.bodies.speech_request import SpeechRequest
from services.edge.paid.paid_request import PaidRequest
from upstream.client import HttpCall
from upstream.openai import speech
from upstream.openai.costly import refuse_costly
from upstream.route import Route
from upstream.usage import Answer, StreamReader, UsageLimits


class SpeechOverOpenAI:
    """OpenAI's own shape. Events are asked for where the price goes by what only they report."""

    def check(self, request: PaidRequest, route: Route) -> None:
        """See Wire."""
        refuse_costly(request.fields, rates=route.price.rates)

    def call(self, request: PaidRequest, route: Route, *, max_tokens: int, request_id: str) -> HttpCall:
        """See Wire."""
        by_token = speech.is_by_token(route.price.rates)
        return speech.prepare(request.fields, route, request_id=request_id, as_events=by_token)

    def stream(self, request: PaidRequest, route: Route, *, include_usage: bool, limits: UsageLimits) -> StreamReader:
        """See Wire."""
        if not isinstance(request, SpeechRequest):
            raise TypeError("this wire carries speech only")
        rates = route.price.rates
        return speech.SpeechStream(
            spoken=request.spoken,
            rates=rates,
            as_events=request.as_events,
            may_be_events=speech.is_by_token(rates),
            limits=limits,
        )

    def answer(self, body: bytes, request: PaidRequest, route: Route, *, limits: UsageLimits) -> Answer:
        """Never called."""
        raise RuntimeError("speech is always a stream")
