"""The body of `POST /responses`: checked, and made a chat request at once, since every provider is asked in a chat.

So `fields` are the chat's, and what refuses a costly field or prices a request sees what a provider will see. What asks
for a memory of ours is refused by its name: nothing is kept between requests.
"""

from collections.abc import Iterable

import msgspec

from chassis.errors import Code, TollbridgeError
from services.edge.bodies.request_body import decode_body
from services.edge.bodies.responses_fields import Item, Part, ResponsesBody
from services.edge.paid.paid_request import PaidRequest, Piece
from services.edge.translate.responses_to_chat import chat_request

_DECODER = msgspec.json.Decoder(ResponsesBody)
DROPPED_TOOLS = b"x-tollbridge-dropped-tools"
_STATEFUL = {
    "previous_response_id": "Responses are not stored here: send the whole conversation in input.",
    "conversation": "Conversations are not stored here: send the whole conversation in input.",
    "prompt": "Prompts are not stored here: send instructions and input.",
}


def parse_responses(body: bytes, headers: Iterable[tuple[bytes, bytes]] = ()) -> PaidRequest:
    """Checks the body. Raises INVALID_REQUEST with `param` where a field is to blame."""
    found = decode_body(body, _DECODER)
    _refuse_stateful(found)
    return PaidRequest(
        body=body,
        fields=chat_request(found),
        model=found.model,
        stream=bool(found.stream),
        asked_tokens=found.max_output_tokens,
        pieces=tuple(_pieces(found.input)),
        answer_headers=_headers(found),
    )


def _headers(found: ResponsesBody) -> tuple[tuple[bytes, bytes], ...]:
    """Says which tools are not told to the model."""
    dropped = sorted({tool.type for tool in found.tools or () if tool.is_dispensable})
    return ((DROPPED_TOOLS, ", ".join(dropped).encode()),) if dropped else ()


def _refuse_stateful(found: ResponsesBody) -> None:
    for name, message in _STATEFUL.items():
        value = getattr(found, name)
        if isinstance(value, msgspec.Raw) and bytes(value) != b"null":
            raise TollbridgeError(Code.INVALID_REQUEST, message, details={"param": name})
    if found.background:
        message = "Responses can't run in the background here: leave background out, or stream."
        raise TollbridgeError(Code.INVALID_REQUEST, message, details={"param": "background"})


def _pieces(items: str | list[Item]) -> Iterable[Piece]:
    """All images, sounds and files, wherever they stand."""
    for item in items if not isinstance(items, str) else ():
        for content in (item.content, item.output):
            for part in content if isinstance(content, list) else ():
                yield from _pieces_of(part)


def _pieces_of(part: Part) -> Iterable[Piece]:
    if part.image_url is not None:
        # Providers read documents and videos from an image's link too, when its data URL says so.
        grows = part.image_url[:11].lower() != "data:image/"
        yield Piece(inline_bytes=len(part.image_url), grows=grows)
    sound = part.input_audio.data if part.input_audio is not None else None
    for data in (part.file_data, part.file_url, sound):
        if data is not None:
            yield Piece(inline_bytes=len(data), grows=True)
