"""The body of a chat completion: read within bounds, checked, and understood as far as money needs it.

All else in it is the provider's to judge but for its types (`chat_fields`), so the bytes travel on as they came. A
wrong field is refused with its name in `param`. Decoding looks at each byte once; a body of 100 KB costs well under a
millisecond.
"""

import asyncio
import dataclasses
import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from chassis.errors import Code, TollbridgeError
from services.edge.chat_fields import MessageFields, PassedOn
from upstream.route import Bounds

MAX_BODY_BYTES = 20 << 20
BODY_TIMEOUT_S = 60.0
MAX_DEPTH = 64
_STRINGS = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_ALL_BUT_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")
_AT = re.compile(r" - at `\$\.?(.*?)`$")
_MISSING = re.compile(r"missing required field `(.+?)`")

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

_Penalty = Annotated[float, Meta(ge=-2, le=2)]
_Count = Annotated[int, Meta(ge=1, le=1 << 40)]


_NOTHING = msgspec.Raw(b"")


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
    def piece(self) -> "Piece | None":
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


class _Body(PassedOn, frozen=True, kw_only=True):
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


_DECODER = msgspec.json.Decoder(_Body)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """An image, a sound or a file in a message: its bytes in the body, and whether its tokens grow with them.

    An image is scaled by its provider to what the model has a limit for; a document, a sound or a video is not.
    """

    inline_bytes: int
    grows: bool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """A checked request.

    `asked_tokens` is the client's own limit on output per choice, None without one; `thinking_budget` is the part of it
    that may go into thinking. `max_cost_nano_usd` is the client's `X-Max-Cost`, None without one.
    """

    body: bytes = dataclasses.field(repr=False)
    model: str
    stream: bool
    include_usage: bool
    choices: int
    asked_tokens: int | None
    thinking_budget: int
    pieces: tuple[Piece, ...]
    max_cost_nano_usd: int | None = None

    def input_tokens(self, bounds: Bounds) -> int:
        """The most input tokens this can be: no token is shorter than a byte. Pieces count as `piece_tokens` says."""
        text = len(self.body) - sum(piece.inline_bytes for piece in self.pieces)
        return text + self.piece_tokens(bounds) + bounds.template_tokens

    def piece_tokens(self, bounds: Bounds) -> int:
        """The most tokens that all images, sounds and files can be.

        Each counts as the model's limit for a piece, or as its bytes if they are more and its tokens grow with them;
        never more than the context in all, where that is known. Without a limit for a piece its bytes count.
        """
        each = bounds.max_part_tokens
        if not each:
            return sum(piece.inline_bytes for piece in self.pieces)
        most = sum(max(each, piece.inline_bytes if piece.grows else 0) for piece in self.pieces)
        return min(most, max(bounds.context, self.usual_piece_tokens(bounds))) if bounds.context else most

    def usual_piece_tokens(self, bounds: Bounds) -> int:
        """What they are taken for when nobody has counted them: the model's limit for each."""
        return len(self.pieces) * bounds.max_part_tokens


def parse_chat(body: bytes, *, max_cost_nano_usd: int | None = None) -> ChatRequest:
    """Checks the body. Raises INVALID_REQUEST with `param` where a field is to blame."""
    _check_text(body)
    try:
        found = _DECODER.decode(body)
    except msgspec.ValidationError as error:
        raise _wrong_field(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise TollbridgeError(Code.INVALID_REQUEST, "The body is not valid JSON.") from error
    check_depth(body)
    parts = _parts(found.messages)
    limit = found.max_completion_tokens if found.max_completion_tokens is not None else found.max_tokens
    return ChatRequest(
        body=body,
        model=found.model,
        stream=bool(found.stream),
        include_usage=bool(found.stream_options and found.stream_options.include_usage),
        choices=found.n or 1,
        asked_tokens=limit,
        thinking_budget=max(
            each.budget if isinstance(each, _Thinking) else 0 for each in (found.thinking, found.reasoning)
        ),
        pieces=tuple(piece for part in parts if (piece := part.piece) is not None),
        max_cost_nano_usd=max_cost_nano_usd,
    )


def _parts(messages: list[_Message]) -> list[_Part]:
    """The parts of all messages; one without what its type promises is refused."""
    parts = []
    for number, message in enumerate(messages):
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


async def read_body(
    receive: Receive, headers: Iterable[tuple[bytes, bytes]], *, most_bytes: int = MAX_BODY_BYTES
) -> bytes:
    """The whole body, refused as soon as it is too large or too slow.

    Raises REQUEST_TOO_LARGE, INVALID_REQUEST; ClientLeft when the client goes away before its end.
    """
    for name, value in headers:
        if name == b"content-length" and value.isdigit() and int(value[:12]) > most_bytes:
            raise _too_large(most_bytes)
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            return await _read(receive, most_bytes)
    except TimeoutError:
        raise TollbridgeError(Code.INVALID_REQUEST, "The body did not come in time.") from None


async def _read(receive: Receive, most_bytes: int) -> bytes:
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body", False):
        whole: bytes = message.get("body", b"")
        if len(whole) > most_bytes:
            raise _too_large(most_bytes)
        return whole
    parts = bytearray()
    while message["type"] == "http.request":
        parts += message.get("body", b"")
        if len(parts) > most_bytes:
            raise _too_large(most_bytes)
        if not message.get("more_body", False):
            return bytes(parts)
        message = await receive()
    raise ClientLeft


class ClientLeft(Exception):
    """The client went away before its request was whole: there is nobody to answer."""


def _check_text(body: bytes) -> None:
    """Fields that are not decoded here must be UTF-8 too."""
    if body.isascii():
        return
    try:
        body.decode()
    except UnicodeDecodeError as error:
        raise TollbridgeError(Code.INVALID_REQUEST, "The body is not valid UTF-8.") from error


def check_depth(body: bytes) -> None:
    """Refuses valid JSON that is nested deeper than MAX_DEPTH, at the speed of C whatever its shape."""
    if body.count(b"[") + body.count(b"{") <= MAX_DEPTH:
        return
    brackets = _STRINGS.sub(b"", body).translate(None, _ALL_BUT_BRACKETS)
    for _ in range(MAX_DEPTH):
        brackets = brackets.translate(_AS_ROUND).replace(b"()", b"")
        if not brackets:
            return
    raise TollbridgeError(Code.INVALID_REQUEST, f"The body is nested deeper than {MAX_DEPTH} levels.")


_AS_ROUND = bytes.maketrans(b"[]{}", b"()()")
"""In valid JSON brackets match anyway, so one kind is enough to see the depth."""


def _wrong_field(message: str) -> TollbridgeError:
    at = _AT.search(message)
    missing = _MISSING.search(message)
    parts = [found.group(1) for found in (at, missing) if found and found.group(1)]
    details = {"param": ".".join(parts)} if parts else {}
    words = _AT.sub("", message)
    if missing:
        words = f"You must provide {details['param']}"
    elif details:
        words = f"{details['param']} is not valid: {words[0].lower()}{words[1:]}"
    return TollbridgeError(Code.INVALID_REQUEST, f"{words}.", details=details)


def _too_large(most_bytes: int) -> TollbridgeError:
    return TollbridgeError(Code.REQUEST_TOO_LARGE, f"The body is larger than {most_bytes >> 20} MiB.")
