"""AV1 by Pillow, so that browsers play what the sandbox films, and no encoder of video is needed besides.

Several pictures in one AVIF file are a track of AV1 (AVIF 1.1, image sequences): libavif and libaom, which Pillow's
wheels have in them, make it as they make any video. Its samples, and the entry that tells a decoder how to read them,
mean the same in an MP4 file (AV1 Codec ISO Media File Format Binding), so they only change their wrapping.
"""

import dataclasses
import io
import struct
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

_QUALITY = 60
_SPEED = 10
"""Of 0 to 10: what is drawn here is plain."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """Pictures, encoded: the first by itself, the others by what changed. `entry` is their visual sample entry."""

    entry: bytes
    frames: tuple[bytes, ...]


def encoded(pictures: Sequence["Image.Image"]) -> Pictures:
    """Two pictures at least, in RGB and of one size with even edges; blocks."""
    file = io.BytesIO()
    first, *others = pictures
    first.save(
        file,
        "AVIF",
        save_all=True,
        append_images=others,
        quality=_QUALITY,
        speed=_SPEED,
        max_threads=1,
        range="limited",
        duration=1,
    )
    data = file.getvalue()
    table = _inside(data, b"moov", b"trak", b"mdia", b"minf", b"stbl")
    (at,) = struct.unpack_from(">I", _inside(table, b"stco"), 8)
    (count,) = struct.unpack_from(">I", _inside(table, b"stsz"), 8)
    frames = []
    for size in struct.unpack_from(f">{count}I", _inside(table, b"stsz"), 12):
        frames.append(data[at : at + size])
        at += size
    return Pictures(entry=_inside(table, b"stsd")[8:], frames=tuple(frames))


def _inside(data: bytes, *path: bytes) -> bytes:
    """What is in the box at that path."""
    for kind in path:
        data = dict(_boxes(data))[kind]
    return data


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    while at < len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        yield kind, data[at + 8 : at + size]
        at += size
