"""`POST /messages` over each provider protocol."""

import msgspec

from services.edge.paid.paid_request import PaidRequest
from services.edge.translate import messages_over_chat
from services.edge.translate.messages_to_chat import chat_request, own_tool_names
from services.edge.translate.plain_ids import with_plain_ids
from services.edge.translate.signed_thoughts import with_signed_thoughts
from upstream.anthropic import native
from upstream.anthropic.costly import refuse_costly
from upstream.client import HttpCall
from upstream.openai import chat
from upstream.route import Route
from upstream.usage import Answer, StreamReader, UsageLimits


class MessagesOverAnthropic:
    """Anthropic's own protocol: what is read is relayed."""

    def check(self, request: PaidRequest, route: Route) -> None:
        """See Wire."""
        refuse_costly(request.fields, rates=route.price.rates)

    def call(self, request: PaidRequest, route: Route, *, max_tokens: int, request_id: str) -> HttpCall:
        """See Wire."""
        return native.prepare(
            with_plain_ids(with_signed_thoughts(request.fields)),
            route,
            max_tokens=max_tokens,
            stream=request.stream,
            request_id=request_id,
            headers=dict(request.headers),
        )

    def stream(self, request: PaidRequest, route: Route, *, include_usage: bool, limits: UsageLimits) -> StreamReader:
        """See Wire."""
        return native.MessagesRelay(model=route.model, limits=limits)

    def answer(self, body: bytes, request: PaidRequest, route: Route, *, limits: UsageLimits) -> Answer:
        """See Wire."""
        return native.read_answer(body, model=route.model, limits=limits)


class MessagesOverOpenAI:
    """OpenAI chat, which the sandbox speaks too, translated."""

    def check(self, request: PaidRequest, route: Route) -> None:
        """See Wire. What chat can't say is refused before any credit is drawn."""
        refuse_costly(request.fields, rates=route.price.rates, caches=False)
        chat_request(request.fields)

    def call(self, request: PaidRequest, route: Route, *, max_tokens: int, request_id: str) -> HttpCall:
        """See Wire."""
        body = chat_request(request.fields)
        return chat.prepare(body, route, max_tokens=max_tokens, stream=request.stream, request_id=request_id)

    def stream(self, request: PaidRequest, route: Route, *, include_usage: bool, limits: UsageLimits) -> StreamReader:
        """See Wire."""
        return messages_over_chat.MessagesOverChat(
            model=route.model, stops=_stops(request), names=own_tool_names(request.fields.get("tools")), limits=limits
        )

    def answer(self, body: bytes, request: PaidRequest, route: Route, *, limits: UsageLimits) -> Answer:
        """See Wire."""
        names = own_tool_names(request.fields.get("tools"))
        return messages_over_chat.read_answer(
            body, model=route.model, stops=_stops(request), names=names, limits=limits
        )


def _stops(request: PaidRequest) -> list[str]:
    raw = request.fields.get("stop_sequences")
    return msgspec.json.decode(raw, type=list[str] | None) or [] if isinstance(raw, msgspec.Raw) else []
