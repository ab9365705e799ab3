"""A small muxer: pictures in JPEG as the frames of an MP4 file, all of the same length, without sound.

Boxes are those of ISO/IEC 14496-12 (ISO base media file format), the least that a track needs. That the frames are JPEG
is said as ISO/IEC 14496-14 has it: a sample entry `mp4v` with an `esds` whose object type is 0x6C, "Visual ISO/IEC
10918-1" (ISO/IEC 14496-1, table of objectTypeIndication; listed at mp4ra.org). FFmpeg's muxer writes the same
(libavformat/isom.c, movenc.c), so players built on it read it; browsers, which only know the codecs of the web, mostly
don't.
"""

import struct
from collections.abc import Sequence

_UNIT = struct.pack(">9I", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
"""The matrix that turns nothing."""
_MS_PER_S = 1000
_JPEG = 0x6C
_VISUAL = 0x04
_WHOLE, _DOTS_PER_INCH, _DEPTH = 1 << 16, 72 << 16, 24
_HAS_NEITHER_TABLE_NOR_MASTER = 0xFFFF


def mp4(frames: Sequence[bytes], *, size: tuple[int, int], frames_per_s: int) -> bytes:
    """The file that shows these JPEG pictures, of that width and height, one after the other."""
    brands = b"isom" + struct.pack(">I", 0x200) + b"isomiso2mp41"
    head = _box(b"ftyp", brands)
    pictures = _box(b"mdat", *frames)
    index = _movie(frames, size=size, frames_per_s=frames_per_s, begins_at=0)
    # The index comes first, so that a player can begin before it has all; it says where the frames are, itself counted.
    begins_at = len(head) + len(index) + 8
    return head + _movie(frames, size=size, frames_per_s=frames_per_s, begins_at=begins_at) + pictures


def _movie(frames: Sequence[bytes], *, size: tuple[int, int], frames_per_s: int, begins_at: int) -> bytes:
    ms = len(frames) * _MS_PER_S // frames_per_s
    movie = struct.pack(">IIIIIHH8x", 0, 0, _MS_PER_S, ms, _WHOLE, 1 << 8, 0) + _UNIT + struct.pack(">24xI", 2)
    track = struct.pack(">IIIIIQHHHH", 0, 0, 1, 0, ms, 0, 0, 0, 0, 0) + _UNIT + struct.pack(">2H2H", *_fixed(size))
    media = struct.pack(">IIIIHH", 0, 0, frames_per_s, len(frames), _language("und"), 0)
    reference = _box(b"dref", struct.pack(">II", 0, 1), _full(b"url ", flags=1))
    content = _box(
        b"minf",
        _full(b"vmhd", bytes(8), flags=1),
        _box(b"dinf", reference),
        _samples(frames, size=size, frames_per_s=frames_per_s, begins_at=begins_at),
    )
    kind = _full(b"hdlr", struct.pack(">I4s12x", 0, b"vide"), b"pictures\0")
    whole = _box(b"mdia", _full(b"mdhd", media), kind, content)
    return _box(b"moov", _full(b"mvhd", movie), _box(b"trak", _full(b"tkhd", track, flags=3), whole))


def _samples(frames: Sequence[bytes], *, size: tuple[int, int], frames_per_s: int, begins_at: int) -> bytes:
    """What the frames are, how long each lasts and where it is: all of them are one chunk, and each is a key frame."""
    count = len(frames)
    sizes = struct.pack(f">II{count}I", 0, count, *map(len, frames))
    return _box(
        b"stbl",
        _full(b"stsd", struct.pack(">I", 1), _entry(frames, size=size, frames_per_s=frames_per_s)),
        _full(b"stts", struct.pack(">III", 1, count, 1)),
        _full(b"stsc", struct.pack(">IIII", 1, 1, count, 1)),
        _full(b"stsz", sizes),
        _full(b"stco", struct.pack(">II", 1, begins_at)),
    )


def _entry(frames: Sequence[bytes], *, size: tuple[int, int], frames_per_s: int) -> bytes:
    """The visual sample entry, and in it what decodes."""
    entry = struct.pack(">6xH16xHHIIIH", 1, *size, _DOTS_PER_INCH, _DOTS_PER_INCH, 0, 1)
    largest = max(map(len, frames))
    mean = sum(map(len, frames)) * 8 * frames_per_s // len(frames)
    decoder = struct.pack(">BB", _JPEG, _VISUAL << 2 | 1) + largest.to_bytes(3, "big")
    decoder += struct.pack(">II", largest * 8 * frames_per_s, mean)
    stream = struct.pack(">HB", 0, 0) + _descriptor(4, decoder) + _descriptor(6, b"\x02")
    name = struct.pack(">32xHH", _DEPTH, _HAS_NEITHER_TABLE_NOR_MASTER)
    return _box(b"mp4v", entry, name, _full(b"esds", _descriptor(3, stream)))


def _box(kind: bytes, *parts: bytes) -> bytes:
    return struct.pack(">I4s", 8 + sum(map(len, parts)), kind) + b"".join(parts)


def _full(kind: bytes, *parts: bytes, flags: int = 0) -> bytes:
    """A box with a version, the first, and flags."""
    return _box(kind, struct.pack(">I", flags), *parts)


def _descriptor(tag: int, content: bytes) -> bytes:
    return bytes([tag, len(content)]) + content


def _language(code: str) -> int:
    """Three letters in fifteen bits."""
    first, second, third = (ord(letter) - 0x60 for letter in code)
    return first << 10 | second << 5 | third


def _fixed(size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Width and height as numbers with sixteen bits behind the point."""
    return size[0], 0, size[1], 0
