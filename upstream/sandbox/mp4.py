"""A small muxer: encoded pictures as the frames of an MP4 file, all of the same length, without sound.

Boxes are those of ISO/IEC 14496-12 (ISO base media file format), the least that a track needs. How the frames are
decoded is their encoder's to say, in the visual sample entry that it gives.
"""

import dataclasses
import struct
from collections.abc import Sequence

_UNIT = struct.pack(">9I", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
"""The matrix that turns nothing."""
_MS_PER_S = 1000
_WHOLE = 1 << 16


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Film:
    """Frames in their order, each of `size`. `entry` is the box of what they are, `keys` are those that stand alone."""

    entry: bytes
    brand: bytes
    frames: Sequence[bytes]
    keys: Sequence[int]
    size: tuple[int, int]
    frames_per_s: int


def mp4(film: Film) -> bytes:
    """The file that shows it."""
    brands = b"isom" + struct.pack(">I", 0x200) + b"isomiso2mp41" + film.brand
    head = _box(b"ftyp", brands)
    pictures = _box(b"mdat", *film.frames)
    index = _movie(film, begins_at=0)
    # The index comes first, so that a player can begin before it has all; it says where the frames are, itself counted.
    begins_at = len(head) + len(index) + 8
    return head + _movie(film, begins_at=begins_at) + pictures


def _movie(film: Film, *, begins_at: int) -> bytes:
    count = len(film.frames)
    ms = count * _MS_PER_S // film.frames_per_s
    movie = struct.pack(">IIIIIHH8x", 0, 0, _MS_PER_S, ms, _WHOLE, 1 << 8, 0) + _UNIT + struct.pack(">24xI", 2)
    track = struct.pack(">IIIIIQHHHH", 0, 0, 1, 0, ms, 0, 0, 0, 0, 0) + _UNIT + struct.pack(">2H2H", *_fixed(film.size))
    media = struct.pack(">IIIIHH", 0, 0, film.frames_per_s, count, _language("und"), 0)
    reference = _box(b"dref", struct.pack(">II", 0, 1), _full(b"url ", flags=1))
    content = _box(
        b"minf",
        _full(b"vmhd", bytes(8), flags=1),
        _box(b"dinf", reference),
        _samples(film, begins_at=begins_at),
    )
    kind = _full(b"hdlr", struct.pack(">I4s12x", 0, b"vide"), b"pictures\0")
    whole = _box(b"mdia", _full(b"mdhd", media), kind, content)
    return _box(b"moov", _full(b"mvhd", movie), _box(b"trak", _full(b"tkhd", track, flags=3), whole))


def _samples(film: Film, *, begins_at: int) -> bytes:
    """What the frames are, how long each lasts and where it is: all of them are one chunk."""
    count = len(film.frames)
    sizes = struct.pack(f">II{count}I", 0, count, *map(len, film.frames))
    keys = struct.pack(f">I{len(film.keys)}I", len(film.keys), *(key + 1 for key in film.keys))
    return _box(
        b"stbl",
        _full(b"stsd", struct.pack(">I", 1), film.entry),
        _full(b"stts", struct.pack(">III", 1, count, 1)),
        _full(b"stss", keys),
        _full(b"stsc", struct.pack(">IIII", 1, 1, count, 1)),
        _full(b"stsz", sizes),
        _full(b"stco", struct.pack(">II", 1, begins_at)),
    )


def _box(kind: bytes, *parts: bytes) -> bytes:
    return struct.pack(">I4s", 8 + sum(map(len, parts)), kind) + b"".join(parts)


def _full(kind: bytes, *parts: bytes, flags: int = 0) -> bytes:
    """A box with a version, the first, and flags."""
    return _box(kind, struct.pack(">I", flags), *parts)


def _language(code: str) -> int:
    """Three letters in fifteen bits."""
    first, second, third = (ord(letter) - 0x60 for letter in code)
    return first << 10 | second << 5 | third


def _fixed(size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Width and height as numbers with sixteen bits behind the point."""
    return size[0], 0, size[1], 0
