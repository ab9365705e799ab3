"""The hot path: what is served by bare ASGI callables, by method and path."""

from services.edge.dialects.messages import messages_voice
from services.edge.openapi import paid
from services.edge.openapi.document import HotDescription
from services.edge.paid.operations import OPERATIONS
from services.edge.paid.relay import Relay
from services.edge.routes import count_tokens
from services.edge.routes.count_tokens import CountTokens
from services.edge.routes.paid import PaidRoute


def hot_routes(relay: Relay) -> dict[tuple[str, str], PaidRoute | CountTokens]:
    """All of them, over one relay."""
    paid = {("POST", each.path): PaidRoute(operation=each, relay=relay) for each in OPERATIONS}
    return {**paid, ("POST", count_tokens.PATH): CountTokens(relay=relay)}


def hot_descriptions() -> list[HotDescription]:
    """What they say of themselves."""
    described = [HotDescription(path=each.path, about=each.about, voice=each.voice) for each in OPERATIONS]
    counts = HotDescription(path=count_tokens.PATH, about=paid.COUNT_TOKENS, voice=messages_voice)
    return [*described, counts]
