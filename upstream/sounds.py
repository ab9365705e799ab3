"""How long a sound is, without decoding it: what its container says, and what its bytes allow.

A container can lie, and providers decode what is there, so its word is taken within what its size makes possible: no
lossy sound has more than MOST_LOSSY_BYTES_PER_MS, and none that can be understood fewer than LEAST_BYTES_PER_MS.
"""

import dataclasses
import io

from tinytag import TinyTag, TinyTagException

LEAST_BYTES_PER_MS = 0.5
"""4 kbit/s: less than any codec for speech that providers take."""
USUAL_BYTES_PER_MS = 4.0
"""32 kbit/s: speech in a container that we can't read."""
HELD_BYTES_PER_MS = 1.0
"""8 kbit/s: as long as such speech may well be."""
ROOM_PERCENT = 105
ROOM_MS = 1000
"""Containers round, and so do providers."""
MOST_LOSSY_BYTES_PER_MS = 64.0
"""512 kbit/s."""
MOST_READS = 20_000
"""How often a container may be read from: junk that looks like a sound would be searched to its end."""
_LOSSLESS = (b"RIFF", b"fLaC", b"FORM")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Duration:
    """Milliseconds: `likely` by what the file says of itself, `held` is that with room, `most` by its size."""

    likely_ms: int
    held_ms: int
    most_ms: int


def duration_of(data: bytes) -> Duration:
    """How long these bytes sound."""
    most_ms = max(1, int(len(data) / LEAST_BYTES_PER_MS))
    said_ms = _said_ms(data)
    if said_ms is None:
        return Duration(
            likely_ms=max(1, int(len(data) / USUAL_BYTES_PER_MS)),
            held_ms=max(1, int(len(data) / HELD_BYTES_PER_MS)),
            most_ms=most_ms,
        )
    least_ms = 1 if data[:4] in _LOSSLESS else int(len(data) / MOST_LOSSY_BYTES_PER_MS)
    likely_ms = max(1, least_ms, min(said_ms, most_ms))
    return Duration(likely_ms=likely_ms, held_ms=likely_ms * ROOM_PERCENT // 100 + ROOM_MS, most_ms=most_ms)


def _said_ms(data: bytes) -> int | None:
    """What the container says, None for one that says nothing that can be read."""
    try:
        said_s = TinyTag.get(file_obj=_Bounded(data), tags=False).duration
    except (TinyTagException, ValueError, ArithmeticError, LookupError, OSError):
        return None
    if not said_s or not 0 < said_s < 1 << 30:
        return None
    return round(said_s * 1000)


class _Bounded(io.BytesIO):
    """Raises OSError when it was read from too often."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._left = MOST_READS

    def read(self, size: int | None = -1, /) -> bytes:
        self._left -= 1
        if self._left < 0:
            raise OSError("read too often")
        return super().read(size)
