"""The text that a stream has handed out, kept to be counted should its provider report no usage; and text that waits.

A provider that goes on for ever must not fill the memory: what is beyond the longest text that can be charged is let
go, since it changes no charge. Text that a reader needs again, because it is told once more at the end or out of its
turn, can't be let go: a provider that sends more of it than can be charged has broken its answer.
"""

from upstream.outcome import ProviderMisbehaved
from upstream.usage import UsageLimits

LONGEST_TOKEN = 128
"""Characters, in the tokenizers that count: so much text is a token at least."""
LEAST_CHARACTERS = 1 << 20
"""Kept in any case: a transcript is made of it, whatever it costs."""


class KeptText:
    """The text of one stream. `besides` are characters that it may have beside what is charged."""

    __slots__ = ("_left", "_pieces")

    def __init__(self, limits: UsageLimits | None, *, besides: int = 0) -> None:
        self._left = _most_characters(limits) + besides
        self._pieces: list[str] = []

    def add(self, text: str) -> None:
        """More was handed out."""
        if self._left > 0 and text:
            self._left -= len(text)
            self._pieces.append(text)

    def stop(self) -> None:
        """Nobody hears what comes from now on."""
        self._left = 0

    @property
    def is_full(self) -> bool:
        """Whether nothing more is kept."""
        return self._left <= 0

    def text(self) -> str:
        """What was kept."""
        return "".join(self._pieces)


class TextRoom:
    """What there is for the text of one stream that waits or is told again."""

    __slots__ = ("_left",)

    def __init__(self, limits: UsageLimits | None) -> None:
        self._left = _most_characters(limits)

    def take(self, characters: int) -> None:
        """So much more is kept. Raises ProviderMisbehaved when that is more than can be charged."""
        self._left -= characters
        if self._left < 0:
            raise ProviderMisbehaved("the provider's answer is longer than the one that was asked for can be")


def _most_characters(limits: UsageLimits | None) -> int:
    tokens = 0 if limits is None else limits.max_output
    return max(LEAST_CHARACTERS, (tokens + 1) * LONGEST_TOKEN)
