"""How long a sound is, without decoding it: what its container says, and what its bytes allow.

A container can lie, and providers decode what is there. So a WAV file of plain samples goes by its samples; of all else
the container's word is taken within what its size makes possible, and never is much less held than its size could be.
"""

import dataclasses
import io

from tinytag import TinyTag, TinyTagException

from upstream.containers import ogg_ms, wav_ms, webm_ms

LEAST_BYTES_PER_MS = 0.5
"""4 kbit/s: less than any codec for speech that providers take."""
USUAL_BYTES_PER_MS = 4.0
"""32 kbit/s: speech in a container that we can't read."""
HELD_BYTES_PER_MS = 1.0
"""8 kbit/s: as long as such speech may well be."""
HELD_LOSSY_BYTES_PER_MS = 8.0
"""64 kbit/s: whatever the container says, so much is held; who holds too much gets it back."""
MOST_LOSSY_BYTES_PER_MS = 64.0
"""512 kbit/s."""
MOST_LOSSLESS_BYTES_PER_MS = 6144.0
"""Eight channels of 32 bits at 192 kHz."""
ROOM_PERCENT = 105
ROOM_MS = 1000
"""Containers round, and so do providers."""
MOST_MS = 7 * 24 * 3600 * 1000
"""A week: what says that it is longer says nothing."""
LEAST_BILLED_MS = 60_000
"""What a provider may take for the shortest sound."""
MOST_READS = 20_000
"""How often a container may be read from: junk that looks like a sound would be searched to its end."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Duration:
    """Milliseconds: `likely` by what the file says of itself, `held` is that with room, `most` by its size."""

    likely_ms: int
    held_ms: int
    most_ms: int


def duration_of(data: bytes) -> Duration:
    """How long these bytes sound."""
    samples = wav_ms(data)
    if samples is not None:
        held_ms = _with_room(max(samples))
        return Duration(likely_ms=max(1, min(samples)), held_ms=held_ms, most_ms=max(held_ms, LEAST_BILLED_MS))
    most_ms = max(int(len(data) / LEAST_BYTES_PER_MS), LEAST_BILLED_MS)
    said_ms, is_lossless = _said(data)
    if not said_ms:
        return Duration(
            likely_ms=max(1, int(len(data) / USUAL_BYTES_PER_MS)),
            held_ms=max(1, int(len(data) / HELD_BYTES_PER_MS)),
            most_ms=most_ms,
        )
    if is_lossless:  # silence takes no bytes
        likely_ms = max(said_ms, int(len(data) / MOST_LOSSLESS_BYTES_PER_MS), 1)
        held_ms = max(_with_room(likely_ms), int(len(data) / MOST_LOSSY_BYTES_PER_MS))
        return Duration(likely_ms=likely_ms, held_ms=held_ms, most_ms=max(held_ms, most_ms))
    likely_ms = max(min(said_ms, most_ms), int(len(data) / MOST_LOSSY_BYTES_PER_MS), 1)
    held_ms = max(_with_room(likely_ms), int(len(data) / HELD_LOSSY_BYTES_PER_MS))
    return Duration(likely_ms=likely_ms, held_ms=held_ms, most_ms=max(held_ms, most_ms))


def _with_room(ms: int) -> int:
    return ms * ROOM_PERCENT // 100 + ROOM_MS


def _said(data: bytes) -> tuple[int, bool]:
    """What the container says, 0 for one that says nothing that can be read; and whether its codec loses nothing."""
    said_ms, is_lossless = webm_ms(data) or ogg_ms(data), data[29:33] == b"FLAC"
    if not said_ms:
        try:
            found = TinyTag.get(file_obj=_Bounded(data), tags=False)
        except (TinyTagException, ValueError, ArithmeticError, LookupError, OSError):
            return 0, False
        said_s, is_lossless = found.duration or 0.0, bool(found.is_lossless)
        said_ms = round(said_s * 1000) if 0 < said_s < MOST_MS else 0
    return (said_ms, is_lossless) if said_ms <= MOST_MS else (0, False)


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
