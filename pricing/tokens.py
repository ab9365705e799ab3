"""What was used, by class: the one normal form that every provider's usage block is brought into.

Providers disagree on what contains what. OpenAI counts cached tokens inside `prompt_tokens` and reasoning inside
`completion_tokens`; Anthropic counts cache reads and writes beside `input_tokens`. Here every token is in exactly one
class, but for `reasoning`, which is a part of `output` and shown only. Counts that can't be (negative, not an integer,
beyond MAX_COUNT) raise ImplausibleUsage: they are never clipped silently, since a clipped count is a wrong charge.
"""

from collections.abc import Mapping

import msgspec
from msgspec.structs import astuple

MAX_COUNT = 1 << 40
"""More than any request can use, and small enough that a charge fits a signed 64-bit integer or is refused."""
_INTEGERS = {int}


class ImplausibleUsage(ValueError):
    """A count that no request can have."""


class Tokens(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Token counts by class; each token is in one class, but reasoning is inside output."""

    input: int = 0
    cached_input: int = 0
    cache_write: int = 0
    cache_write_1h: int = 0
    output: int = 0
    reasoning: int = 0
    audio_input: int = 0
    audio_output: int = 0
    image_input: int = 0

    def __post_init__(self) -> None:
        if _are_integers(self):
            bits = self.input | self.cached_input | self.cache_write | self.cache_write_1h | self.image_input
            bits |= self.output | self.reasoning | self.audio_input | self.audio_output
            if 0 <= bits <= MAX_COUNT and self.reasoning <= self.output:
                return
        _check_each(self)
        if self.reasoning > self.output:
            raise ImplausibleUsage("reasoning exceeds output")

    @property
    def prompt(self) -> int:
        """All input, as OpenAI's `prompt_tokens` counts it."""
        return (
            self.input
            + self.cached_input
            + self.cache_write
            + self.cache_write_1h
            + self.audio_input
            + self.image_input
        )

    @property
    def completion(self) -> int:
        """All output, as OpenAI's `completion_tokens` counts it."""
        return self.output + self.audio_output


class Units(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What is sold by the piece: requests, images, characters spoken, milliseconds of audio or video."""

    requests: int = 0
    images: int = 0
    characters: int = 0
    milliseconds: int = 0

    def __post_init__(self) -> None:
        if not (
            _are_integers(self) and 0 <= self.requests | self.images | self.characters | self.milliseconds <= MAX_COUNT
        ):
            _check_each(self)


def from_openai(usage: Mapping[str, object]) -> Tokens:
    """Reads an OpenAI `usage` object, where details are parts of the totals. Raises ImplausibleUsage."""
    prompt = _count(usage, "prompt_tokens")
    completion = _count(usage, "completion_tokens")
    prompt_details = _details(usage, "prompt_tokens_details")
    completion_details = _details(usage, "completion_tokens_details")
    cached = _count(prompt_details, "cached_tokens")
    if prompt_details.get("cached_tokens") is None:  # DeepSeek's own name for the same count
        cached = _count(usage, "prompt_cache_hit_tokens")
    cache_write = _count(prompt_details, "cache_write_tokens")
    audio_input = _count(prompt_details, "audio_tokens")
    audio_output = _count(completion_details, "audio_tokens")
    plain = prompt - cached - cache_write - audio_input
    if plain < 0 or audio_output > completion:
        raise ImplausibleUsage("the parts exceed the whole")
    return Tokens(
        input=plain,
        cached_input=cached,
        cache_write=cache_write,
        output=completion - audio_output,
        reasoning=min(_count(completion_details, "reasoning_tokens"), completion - audio_output),
        audio_input=audio_input,
        audio_output=audio_output,
    )


def from_anthropic(usage: Mapping[str, object]) -> Tokens:
    """Reads an Anthropic `usage` object, where cache reads and writes are beside the input. Raises ImplausibleUsage."""
    writes = _details(usage, "cache_creation")
    hour = _count(writes, "ephemeral_1h_input_tokens")
    output = _count(usage, "output_tokens")
    thinking = _count(_details(usage, "output_tokens_details"), "thinking_tokens")
    written = _count(usage, "cache_creation_input_tokens")
    if usage.get("cache_creation_input_tokens") is None:  # only the details were sent
        written = hour + _count(writes, "ephemeral_5m_input_tokens")
    if hour > written:
        raise ImplausibleUsage("the hour's cache writes exceed all cache writes")
    return Tokens(
        input=_count(usage, "input_tokens"),
        cached_input=_count(usage, "cache_read_input_tokens"),
        cache_write=written - hour,
        cache_write_1h=hour,
        output=output,
        reasoning=min(thinking, output),
    )


def _details(usage: Mapping[str, object], name: str) -> Mapping[str, object]:
    value = usage.get(name)
    return value if isinstance(value, Mapping) else {}


def _count(usage: Mapping[str, object], name: str) -> int:
    value = usage.get(name)
    return 0 if value is None else _check(value, name)


def _are_integers(counts: Tokens | Units) -> bool:
    """Then one look at the bits of all tells, nearly always, that each is in range: no count is above their union."""
    return set(map(type, astuple(counts))) == _INTEGERS


def _check_each(counts: Tokens | Units) -> None:
    for name, value in zip(counts.__struct_fields__, astuple(counts), strict=True):
        _check(value, name)


def _check(value: object, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ImplausibleUsage(f"{name} is not an integer")
    if not 0 <= value <= MAX_COUNT:
        raise ImplausibleUsage(f"{name} is out of range")
    return value
