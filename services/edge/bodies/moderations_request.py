"""The body of a moderation: its input is all that can cost, and most providers ask nothing for it."""

from collections.abc import Iterable
from typing import Annotated

import msgspec
from msgspec import Meta

from services.edge.bodies.request_body import decode_body, top_level
from services.edge.paid.paid_request import PaidRequest, Piece

USUAL_MODEL = "omni-moderation-latest"
"""What OpenAI takes when a client names no model."""


class _Link(msgspec.Struct, frozen=True):
    url: str


class _Part(msgspec.Struct, frozen=True):
    type: str
    text: str | None = None
    image_url: _Link | None = None


class ModerationsBody(msgspec.Struct, frozen=True, kw_only=True):
    """`input` is a text, some texts, or parts of texts and pictures that are judged together."""

    model: Annotated[str, Meta(min_length=1, max_length=256)] = USUAL_MODEL
    input: str | Annotated[list[str | _Part], Meta(min_length=1)]


_DECODER = msgspec.json.Decoder(ModerationsBody)


def parse_moderation(body: bytes, headers: Iterable[tuple[bytes, bytes]] = ()) -> PaidRequest:
    """Checks the body. Raises INVALID_REQUEST with `param` where a field is to blame."""
    found = decode_body(body, _DECODER)
    links = [part.image_url for part in found.input if isinstance(part, _Part) and part.image_url is not None]
    return PaidRequest(
        body=body,
        fields=top_level(body),
        model=found.model,
        choices=0,
        pieces=tuple(Piece(inline_bytes=len(link.url), grows=False) for link in links),
    )
