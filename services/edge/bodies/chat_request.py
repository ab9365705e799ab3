"""The body of a chat completion: checked, and understood as far as money needs it.

All else in it is the provider's to judge but for its types (`chat_fields`), so the bytes travel on as they came. A
wrong field is refused with its name in `param`. Decoding looks at each byte once; a body of 100 KB costs well under a
millisecond.
"""

from collections.abc import Iterable
from typing import Annotated

import msgspec
from msgspec import Meta

from chassis.errors import Code, TollbridgeError
from services.edge.bodies.chat_fields import MessageFields, PassedOn
from services.edge.bodies.request_body import decode_body, top_level
from services.edge.paid.paid_request import PaidRequest, Piece

_Penalty = Annotated[float, Meta(ge=-2, le=2)]
_Count = Annotated[int, Meta(ge=1, le=1 << 40)]


_NOTHING = msgspec.Raw(b"")


_NEVER_WITHOUT_CONTENT = frozenset({"developer", "system", "user"})
_DOCUMENTED_PARTS = frozenset({"text", "refusal", "image_url", "input_audio", "file"})


class _ImageLink(msgspec.Struct, frozen=True):
    url: str


_IMAGE_LINK = msgspec.json.Decoder(str | _ImageLink)


class _Part(msgspec.Struct, frozen=True):
    """A part of a message. What is no text is counted by the piece, not by its bytes alone."""

    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: msgspec.Raw = _NOTHING
    input_audio: msgspec.Raw = _NOTHING
    file: msgspec.Raw = _NOTHING
    video_url: msgspec.Raw = _NOTHING
    source: msgspec.Raw = _NOTHING

    @property
    def is_whole(self) -> bool:
        """Whether it has what its type promises; of types that OpenAI doesn't document nothing is known."""
        if self.type not in _DOCUMENTED_PARTS:
            return True
        own = getattr(self, self.type)
        if not isinstance(own, msgspec.Raw):
            return own is not None
        first = bytes(memoryview(own)[:1])
        return first == b"{" or (first == b'"' and self.type == "image_url")  # some providers take a mere link

    @property
    def piece(self) -> Piece | None:
        """What of it is no text, None when all is."""
        heavy = (self.image_url, self.input_audio, self.file, self.video_url, self.source)
        inline = sum(len(bytes(raw)) for raw in heavy)
        if not inline and self.type in ("text", "refusal"):
            return None
        only_image = inline == len(bytes(self.image_url)) and self._links_image()
        return Piece(inline_bytes=inline, grows=not only_image)

    def _links_image(self) -> bool:
        """Providers read documents and videos from an `image_url` too, when its data URL says so."""
        try:
            link = _IMAGE_LINK.decode(self.image_url)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return False
        url = link if isinstance(link, str) else link.url
        return url[:11].lower() == "data:image/"


class _Message(MessageFields, frozen=True, kw_only=True):
    content: str | list[_Part] | None = None


class _StreamOptions(msgspec.Struct, frozen=True):
    include_usage: bool | None = None


class _Thinking(msgspec.Struct, frozen=True):
    """`thinking` as Anthropic has it, `reasoning` as OpenRouter has it; other providers' shapes carry no budget."""

    type: object = None
    budget_tokens: object = None
    max_tokens: object = None

    @property
    def budget(self) -> int:
        """Tokens that may be thought before the answer begins; 0 without a limit."""
        budgets = () if self.type == "disabled" else (self.budget_tokens, self.max_tokens)
        return max((each for each in budgets if isinstance(each, int) and each > 0), default=0)


class ChatBody(PassedOn, frozen=True, kw_only=True):
    """OpenAI's. Fields that are not here are handed to the provider as they are."""

    model: Annotated[str, Meta(min_length=1, max_length=256)]
    messages: Annotated[list[_Message], Meta(min_length=1)]
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_tokens: _Count | None = None
    max_completion_tokens: _Count | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    thinking: _Thinking | bool | str | None = None
    reasoning: _Thinking | bool | str | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    presence_penalty: _Penalty | None = None
    frequency_penalty: _Penalty | None = None


_DECODER = msgspec.json.Decoder(ChatBody)


def parse_chat(body: bytes, headers: Iterable[tuple[bytes, bytes]] = ()) -> PaidRequest:
    """Checks the body. Raises INVALID_REQUEST with `param` where a field is to blame."""
    found = decode_body(body, _DECODER)
    lacking = found.lacking()
    if lacking is not None:
        raise _missing(lacking)
    parts = _parts(found.messages)
    limit = found.max_completion_tokens if found.max_completion_tokens is not None else found.max_tokens
    return PaidRequest(
        body=body,
        fields=top_level(body),
        model=found.model,
        stream=bool(found.stream),
        include_usage=bool(found.stream_options and found.stream_options.include_usage),
        choices=found.n or 1,
        asked_tokens=limit,
        thinking_budget=max(
            each.budget if isinstance(each, _Thinking) else 0 for each in (found.thinking, found.reasoning)
        ),
        pieces=tuple(piece for part in parts if (piece := part.piece) is not None),
    )


def _parts(messages: list[_Message]) -> list[_Part]:
    """The parts of all messages; a message or a part without what its kind promises is refused."""
    parts = []
    for number, message in enumerate(messages):
        if message.content in (None, []) and message.role in _NEVER_WITHOUT_CONTENT:
            raise _missing(f"messages[{number}].content")
        if (lacking := message.lacking()) is not None:
            raise _missing(f"messages[{number}].{lacking}")
        if not isinstance(message.content, list):
            continue
        for place, part in enumerate(message.content):
            if not part.is_whole:
                where = f"messages[{number}].content[{place}].{part.type}"
                raise TollbridgeError(
                    Code.INVALID_REQUEST, f"{where} is missing or malformed.", details={"param": where}
                )
            parts.append(part)
    return parts


def _missing(where: str) -> TollbridgeError:
    return TollbridgeError(Code.INVALID_REQUEST, f"You must provide {where}.", details={"param": where})
