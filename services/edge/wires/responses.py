"""`POST /responses` over each provider protocol: a chat, whatever the provider speaks, in the shape of a response.

Providers that have a Responses API of their own are asked in a chat all the same: what an answer means and costs is
then one piece of code, and nothing is stored at a provider's.
"""

from chassis.errors import TollbridgeError
from services.edge.paid.paid_request import PaidRequest
from services.edge.translate.response_params import in_words_of_a_response
from services.edge.translate.responses_over_chat import ResponseHead, ResponseOfChat, ResponsesOverChat
from services.edge.wires.wire import Wire
from upstream.client import HttpCall
from upstream.route import Route
from upstream.usage import Answer, StreamReader, UsageLimits


class ResponsesOver:
    """Responses over a chat wire. The request's fields are a chat's already."""

    def __init__(self, chat: Wire) -> None:
        self._chat = chat

    def check(self, request: PaidRequest, route: Route) -> None:
        """See Wire. The client wrote no chat, so what is refused is named as it wrote it."""
        try:
            self._chat.check(request, route)
        except TollbridgeError as error:
            raise in_words_of_a_response(error, chat=request.fields, body=request.body) from error

    def call(self, request: PaidRequest, route: Route, *, max_tokens: int, request_id: str) -> HttpCall:
        """See Wire."""
        return self._chat.call(request, route, max_tokens=max_tokens, request_id=request_id)

    def stream(self, request: PaidRequest, route: Route, *, include_usage: bool, limits: UsageLimits) -> StreamReader:
        """See Wire. The end always says the usage."""
        inner = self._chat.stream(request, route, include_usage=False, limits=limits)
        return ResponsesOverChat(inner=inner, head=ResponseHead(request.body, model=route.model), limits=limits)

    def answer(self, body: bytes, request: PaidRequest, route: Route, *, limits: UsageLimits) -> Answer:
        """See Wire."""
        chat = self._chat.answer(body, request, route, limits=limits)
        return ResponseOfChat(chat=chat, head=ResponseHead(request.body, model=route.model))
