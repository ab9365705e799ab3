"""What a provider's answer is read for, and the counts that stand in where it says nothing.

`Captured` is the one result of every reader, whichever wire it reads; `StreamReader` is the shape that edge's relay
drives. Counting with the tokenizer is exact but slow (0.2 ms per thousand tokens): callers do it off the loop.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from decimal import ROUND_CEILING, Decimal, InvalidOperation
from typing import Protocol, runtime_checkable

import msgspec

from pricing.prices import NANO_PER_USD
from pricing.tokens import ImplausibleUsage, Tokens, Units
from upstream.route import Bounds
from upstream.text_pieces import pieces

MAX_REPORTED_COST_USD = 9_000_000
"""As for any charge: beyond it something is broken."""
_AMOUNT = re.compile(r"[+-]?[0-9]{1,30}(?:\.[0-9]{1,30})?(?:[eE][+-]?[0-9]{1,3})?")
_CL100K_MODELS = ("gpt-4-", "gpt-3.5", "text-embedding-")
_PARTS = (b"image_url", b"input_audio", b"file", b"input_image", b"input_file", b"image", b"document", b"video_url")
_PART_MARKS = tuple(b'"' + part + b'"' for part in _PARTS)
_PART_TYPES = re.compile(rb'"type"\s*:\s*"(?:' + b"|".join(_PARTS) + rb')"')
_PART_KEYS = re.compile(rb'"(?:image_url|input_audio|file|source|video_url)"\s*:')
_ESCAPED_ASCII = b"\\u00"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class UsageLimits:
    """What a request's usage can't exceed: its worst case, in tokens.

    `part_tokens` of the input are reserved for images, sounds and files; `usual_part_tokens` are what these count when
    nobody has counted them.
    """

    max_input: int
    max_output: int
    part_tokens: int = 0
    usual_part_tokens: int = 0


class InputBeyondBounds(ImplausibleUsage):
    """More input than a request with these bounds can have, or the bounds are too low for what it holds."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Captured:
    """What a provider's answer said about itself.

    `tokens` is None when it reported no usage, none that can be true (`implausible`; `beyond_input` when it says that
    there was more input than can be), or did not get that far: then it has to be counted; `sound_tokens` are what a
    sound that was made then counts as. `so_far` is what it had reported when the answer broke off: the input classes
    are exact, the output may be early. `complete` means that the provider's own end was seen; `error` is the
    provider's message when it failed inside its answer, with `error_status` when it named one. `implausible` beside
    `tokens` is about the reported cost, which is None then.
    """

    tokens: Tokens | None = None
    so_far: Tokens | None = None
    units: Units = dataclasses.field(default_factory=lambda: Units(requests=1))
    reported_cost_nano_usd: int | None = None
    generation_id: str = ""
    finish_reason: str = ""
    complete: bool = False
    error: str | None = None
    error_status: int | None = None
    implausible: bool = False
    beyond_input: bool = False
    sound_tokens: int = 0


class StreamReader(Protocol):
    """Reads a provider's stream and makes the client's: one `feed` per socket read, bytes in, bytes out."""

    @property
    def has_content(self) -> bool:
        """True once something of the answer itself was seen: the first byte that counts."""

    @property
    def ended(self) -> bool:
        """True once the provider's own end or its error was seen; what follows is ignored."""

    def feed(self, data: bytes) -> bytes:
        """The bytes to relay for these, possibly none. Raises ProviderMisbehaved; what was captured stays readable.

        The usage chunk and the stream's end mark are held back, an error event too: `closing` makes the end.
        """

    def finish(self) -> Captured:
        """What was captured so far. May be asked at any time."""

    def closing(self, *, tokens: Tokens, cost: str | None, cut: bool = False) -> bytes:
        """The last bytes of a stream that ended well: the usage chunk, if the client gets one, with `cost` (a JSON
        number in USD) in it, and the end mark. `tokens` is what the request is charged for. With `cut` (the total
        time is over) the finish `length` goes before."""

    def stop_delivery(self) -> None:
        """The client is gone: from now on the stream is only read for its usage, and nothing counts as delivered."""

    def delivered_text(self) -> str:
        """All text handed out to the client, reasoning and tool arguments included. Slow: call it off the loop."""


@runtime_checkable
class BareStream(Protocol):
    """A `StreamReader` of bytes that need not be events: what they are is told by them, their end by nothing in them,
    and a failure can't be told in them."""

    @property
    def content_type(self) -> bytes:
        """What the client gets. Known once there is content."""

    @property
    def most_bytes(self) -> int:
        """How many of them there may be, generously."""

    def at_end(self) -> None:
        """The provider's answer has come to its end without a failure."""


class Answer(Protocol):
    """A whole answer, read."""

    @property
    def captured(self) -> Captured:
        """What it said about itself."""

    def render(self, *, tokens: Tokens, cost: str | None) -> bytes:
        """The body for the client, with the public model id and `cost` (a JSON number in USD) in its usage."""

    def text(self) -> str:
        """All text in it, for counting."""


def bound_usage(tokens: Tokens, limits: UsageLimits) -> Tokens:
    """The same tokens, when a request with these limits can have used them.

    Raises ImplausibleUsage, InputBeyondBounds for the input.
    """
    if tokens.prompt > limits.max_input:
        raise InputBeyondBounds(f"{tokens.prompt} input tokens where at most {limits.max_input} can be")
    if tokens.completion > limits.max_output:
        raise ImplausibleUsage(f"{tokens.completion} output tokens where at most {limits.max_output} can be")
    return tokens


def usage_limits(bounds: Bounds, *, input_tokens: int, max_tokens: int, choices: int = 1) -> UsageLimits:
    """The limits of a request whose worst-case input, reserved output per choice and number of choices are these."""
    return UsageLimits(max_input=input_tokens, max_output=choices * max_tokens + bounds.hidden_output)


def estimate_input_tokens(body: bytes, bounds: Bounds, *, parts: int | None = None) -> int:
    """The most tokens that this request body can be: no token is shorter than a byte.

    Bytes of the body (a data URL's included: they are more than its tokens, never fewer), plus `max_part_tokens` for
    each image or file part, plus the template. `parts` left out: counted in the body by `count_parts`.
    """
    count = count_parts(body) if parts is None else parts
    return len(body) + count * bounds.max_part_tokens + bounds.template_tokens


def count_parts(body: bytes) -> int:
    """How many image or file parts a request body has at most.

    By their types or by their own keys, whichever are more: some providers need only one of them. Escapes that could
    hide a part (`image\\u005furl`) are resolved first. Raises msgspec.DecodeError for a body with such that is no JSON.
    """
    if _ESCAPED_ASCII in body:
        body = msgspec.json.encode(msgspec.json.decode(body))
    if not any(mark in body for mark in _PART_MARKS):
        return 0
    return max(len(_PART_TYPES.findall(body)), len(_PART_KEYS.findall(body)))


def exact_number(text: str) -> Decimal:
    """A JSON number as it is written, for decoders; one with an exponent beyond Decimal's is no number."""
    try:
        return Decimal(text)
    except InvalidOperation:
        return Decimal("NaN")


def cost_nano_usd(usage: Mapping[str, object]) -> int | None:
    """The cost in USD that a usage object reports, rounded up to a nano-dollar; None without one.

    It is a number, or a text that is one. Raises ImplausibleUsage for a negative, infinite or absurd one. Numbers must
    have been decoded by `exact_number`.
    """
    cost = usage.get("cost")
    if cost is None or isinstance(cost, bool) or not isinstance(cost, (int, Decimal, str)):
        return None
    if isinstance(cost, str) and not _AMOUNT.fullmatch(cost):
        raise ImplausibleUsage("the reported cost is no number")
    amount = Decimal(cost)
    if not amount.is_finite() or not 0 <= amount <= MAX_REPORTED_COST_USD:
        raise ImplausibleUsage("the reported cost is out of range")
    return int((amount * NANO_PER_USD).to_integral_value(ROUND_CEILING))


def count_tokens(text: str, model: str) -> int:
    """Tokens of `text`, exactly for OpenAI's models and as the nearest public tokenizer has it for others.

    Blocks for about 0.2 ms per thousand tokens, and longer once per tokenizer while it loads: call it off the loop.
    Safe from several threads. What a long text without the ends of words counts is near: see `text_pieces`.
    """
    old = model.rpartition("/")[2].startswith(_CL100K_MODELS) or model.endswith("gpt-4")
    from rs_bpe.bpe import openai  # tens of megabytes: loaded where something is counted, and kept by itself

    tokenizer = openai.cl100k_base() if old else openai.o200k_base()
    return sum(tokenizer.count(piece.encode("utf-8", "replace").decode()) for piece in pieces(text))


def count_all(texts: Iterable[str], model: str) -> int:
    """Tokens of several texts, each counted by itself."""
    return sum(count_tokens(text, model) for text in texts)
