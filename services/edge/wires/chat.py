"""`POST /chat/completions` over each provider protocol."""

import time

from services.edge.paid.paid_request import PaidRequest
from services.edge.translate import chat_over_messages
from services.edge.translate.chat_to_messages import messages_request
from upstream.client import HttpCall
from upstream.openai import chat
from upstream.openai.chat_stream import ChatStream
from upstream.openai.costly import refuse_costly
from upstream.route import Route
from upstream.usage import Answer, StreamReader, UsageLimits


class ChatOverOpenAI:
    """OpenAI's own protocol, which the sandbox speaks too: what is read is relayed."""

    def check(self, request: PaidRequest, route: Route) -> None:
        """See Wire."""
        refuse_costly(request.fields, rates=route.price.rates)

    def call(self, request: PaidRequest, route: Route, *, max_tokens: int, request_id: str) -> HttpCall:
        """See Wire."""
        return chat.prepare(request.fields, route, max_tokens=max_tokens, stream=request.stream, request_id=request_id)

    def stream(self, request: PaidRequest, route: Route, *, include_usage: bool, limits: UsageLimits) -> StreamReader:
        """See Wire."""
        mends = not chat.insists_on_a_tool(request.fields)
        return ChatStream(model=route.model, include_usage=include_usage, limits=limits, mends_finish=mends)

    def answer(self, body: bytes, request: PaidRequest, route: Route, *, limits: UsageLimits) -> Answer:
        """See Wire."""
        mends = not chat.insists_on_a_tool(request.fields)
        return chat.read_answer(body, model=route.model, limits=limits, mends_finish=mends)


class ChatOverAnthropic:
    """Anthropic's Messages, translated."""

    def check(self, request: PaidRequest, route: Route) -> None:
        """See Wire. What Messages can't say is refused before any credit is drawn."""
        refuse_costly(request.fields, rates=route.price.rates)
        messages_request(request.fields, max_tokens=1)

    def call(self, request: PaidRequest, route: Route, *, max_tokens: int, request_id: str) -> HttpCall:
        """See Wire."""
        return chat_over_messages.prepare(
            request.fields, route, max_tokens=max_tokens, stream=request.stream, request_id=request_id
        )

    def stream(self, request: PaidRequest, route: Route, *, include_usage: bool, limits: UsageLimits) -> StreamReader:
        """See Wire."""
        return chat_over_messages.ChatOverMessages(
            model=route.model, include_usage=include_usage, created=int(time.time()), limits=limits
        )

    def answer(self, body: bytes, request: PaidRequest, route: Route, *, limits: UsageLimits) -> Answer:
        """See Wire."""
        return chat_over_messages.read_answer(body, model=route.model, created=int(time.time()), limits=limits)
