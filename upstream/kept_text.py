"""The text that a stream has handed out, kept to be counted should its provider report no usage.

A provider that goes on for ever must not fill the memory: what is beyond the longest text that can be charged is let
go, since it changes no charge.
"""

from upstream.usage import UsageLimits

LONGEST_TOKEN = 128
"""Characters, in the tokenizers that count: so much text is a token at least."""
LEAST_CHARACTERS = 1 << 20
"""Kept in any case: a transcript is made of it, whatever it costs."""


class KeptText:
    """The text of one stream. `besides` are characters that it may have beside what is charged."""

    __slots__ = ("_left", "_pieces")

    def __init__(self, limits: UsageLimits | None, *, besides: int = 0) -> None:
        tokens = 0 if limits is None else limits.max_output
        self._left = max(LEAST_CHARACTERS, (tokens + 1) * LONGEST_TOKEN) + besides
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
