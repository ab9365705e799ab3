"""Plays videos in tests: an MP4 of AV1, found by its boxes and decoded by Pillow."""

import io
import struct
from collections.abc import Iterator

from PIL import Image

FULL = 4
"""Bytes of version and flags."""


class Video:
    """What a player reads of a file: its size, its length and where its frames are."""

    def __init__(self, file: bytes) -> None:
        kinds = [kind for kind, _ in boxes(file)]
        assert kinds[0] == "ftyp"
        assert {"moov", "mdat"} <= set(kinds)
        media = inside(file, "moov", "trak", "mdia")
        rate, length = struct.unpack_from(">II", inside(media, "mdhd"), FULL + 8)
        movie_rate, movie_length = struct.unpack_from(">II", inside(file, "moov", "mvhd"), FULL + 8)
        self.seconds = length / rate
        assert movie_length / movie_rate == self.seconds
        table = inside(media, "minf", "stbl")
        self.entry, entry = next(boxes(inside(table, "stsd")[FULL + 4 :]))
        self.size = struct.unpack_from(">HH", entry, 24)
        self.decoder = inside(entry[78:], "av1C")
        sizes = inside(table, "stsz")[FULL + 4 :]
        (at,) = struct.unpack_from(">I", inside(table, "stco"), FULL + 4)
        self.frames: list[bytes] = []
        for (size,) in struct.iter_unpack(">I", sizes[4:]):
            self.frames.append(file[at : at + size])
            at += size
        count, each = struct.unpack_from(">II", inside(table, "stts"), FULL + 4)
        assert (count, count * each) == (len(self.frames), length)
        (keys,) = struct.unpack_from(">I", inside(table, "stss"), FULL)
        self.keys = [number - 1 for number in struct.unpack_from(f">{keys}I", inside(table, "stss"), FULL + 4)]
        self._file = file

    def pictures(self) -> Iterator[Image.Image]:
        """Each frame, decoded: the same track is an AVIF of several pictures, if only its file and it are called so."""
        named = b"avis" + bytes(4) + b"avismsf1miaf"
        (head, brands), *_ = boxes(self._file)
        assert (head, len(brands)) == ("ftyp", len(named) + 4)
        avif = self._file[:8] + named + self._file[8 + len(named) :].replace(b"vide", b"pict", 1)
        with Image.open(io.BytesIO(avif), formats=["AVIF"]) as file:
            assert getattr(file, "n_frames", 1) == len(self.frames)
            for number in range(len(self.frames)):
                file.seek(number)
                yield file.convert("RGB")


def boxes(data: bytes) -> Iterator[tuple[str, bytes]]:
    """The boxes that follow each other, their kinds and contents."""
    at = 0
    while at < len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        assert 8 <= size <= len(data) - at
        yield kind.decode(), data[at + 8 : at + size]
        at += size


def inside(data: bytes, *path: str) -> bytes:
    """What is in the box at that path."""
    for kind in path:
        data = dict(boxes(data))[kind]
    return data
