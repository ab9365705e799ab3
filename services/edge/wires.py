"""Which code speaks a provider's protocol for a chat: the call, the stream and the whole answer."""

import time
from collections.abc import Mapping
from typing import Protocol

import msgspec

from chassis.errors import Code, TollbridgeError
from services.edge.translate import chat_over_messages
from services.edge.translate.chat_to_messages import messages_request
from upstream.client import HttpCall
from upstream.openai import chat
from upstream.openai.chat_stream import ChatStream
from upstream.openai.costly import refuse_costly
from upstream.route import Route, WireProtocol
from upstream.usage import Answer, StreamReader, UsageLimits

Fields = Mapping[str, object]


class ChatWire(Protocol):
    """One protocol, as an exchange uses it."""

    def check(self, fields: Fields, route: Route) -> None:
        """Raises INVALID_REQUEST for what this protocol can't say or the route does not price."""

    def call(self, fields: Fields, route: Route, *, max_tokens: int, stream: bool, request_id: str) -> HttpCall:
        """The provider's call for the client's fields."""

    def stream(self, route: Route, *, include_usage: bool, limits: UsageLimits) -> StreamReader:
        """A reader for the stream that follows."""

    def answer(self, body: bytes, route: Route, *, limits: UsageLimits) -> Answer:
        """The whole answer, read. Raises AttemptFailed."""


class OpenAIWire:
    """OpenAI's own protocol, which the sandbox speaks too."""

    def check(self, fields: Fields, route: Route) -> None:
        """Refuses what costs money that the route does not price."""
        refuse_costly(fields, rates=route.price.rates)

    def call(self, fields: Fields, route: Route, *, max_tokens: int, stream: bool, request_id: str) -> HttpCall:
        """The same request with the provider's model name and our limit."""
        return chat.prepare(fields, route, max_tokens=max_tokens, stream=stream, request_id=request_id)

    def stream(self, route: Route, *, include_usage: bool, limits: UsageLimits) -> StreamReader:
        """Relays what is read, under the public model id."""
        return ChatStream(model=route.model, include_usage=include_usage, limits=limits)

    def answer(self, body: bytes, route: Route, *, limits: UsageLimits) -> Answer:
        """The answer under the public model id."""
        return chat.read_answer(body, model=route.model, limits=limits)


class AnthropicWire:
    """Anthropic's Messages, translated."""

    def check(self, fields: Fields, route: Route) -> None:
        """Refuses what is not priced and what Messages can't say, before any credit is drawn."""
        refuse_costly(fields, rates=route.price.rates)
        messages_request(fields, max_tokens=1)

    def call(self, fields: Fields, route: Route, *, max_tokens: int, stream: bool, request_id: str) -> HttpCall:
        """The same request as a message."""
        return chat_over_messages.prepare(fields, route, max_tokens=max_tokens, stream=stream, request_id=request_id)

    def stream(self, route: Route, *, include_usage: bool, limits: UsageLimits) -> StreamReader:
        """Messages events in, chat chunks out."""
        return chat_over_messages.ChatOverMessages(
            model=route.model, include_usage=include_usage, created=int(time.time()), limits=limits
        )

    def answer(self, body: bytes, route: Route, *, limits: UsageLimits) -> Answer:
        """The message as a chat completion."""
        return chat_over_messages.read_answer(body, model=route.model, created=int(time.time()), limits=limits)


_OPENAI = OpenAIWire()
_WIRES: Mapping[WireProtocol, ChatWire] = {
    WireProtocol.OPENAI: _OPENAI,
    WireProtocol.SANDBOX: _OPENAI,
    WireProtocol.ANTHROPIC: AnthropicWire(),
}


def wire_of(route: Route) -> ChatWire:
    """The wire of a route's provider. Raises PROVIDER_NOT_CONFIGURED for one that does not chat."""
    wire = _WIRES.get(route.protocol)
    if wire is None:
        message = f"The provider of {route.model!r} does not offer chat."
        raise TollbridgeError(Code.PROVIDER_NOT_CONFIGURED, message)
    return wire


def top_level(body: bytes) -> Fields:
    """A checked body by its top-level fields, their values as the client wrote them."""
    return msgspec.json.decode(body, type=dict[str, msgspec.Raw])
