"""The sandbox's films: what a player finds in its file, and sees."""

import pytest
from PIL import Image

from tests.fakes.player import Video, boxes
from upstream.sandbox.av1 import encoded
from upstream.sandbox.mp4 import Film, mp4

SIZE = (64, 48)
COLOURS = ("red", "lime", "blue", "white", "black")


def film(*frames: bytes, frames_per_s: int = 4) -> Film:
    """Of anything, said to be AV1."""
    entry = encoded([Image.new("RGB", SIZE)] * 2).entry
    return Film(entry=entry, brand=b"av01", frames=frames, keys=(0,), size=SIZE, frames_per_s=frames_per_s)


@pytest.mark.parametrize("count", [1, 3, 240])
def test_a_player_finds_every_frame(count: int):
    """At its place, of the size and length that were told, said to be AV1."""
    frames = [bytes([number % 256]) * (number + 1) for number in range(count)]
    video = Video(mp4(film(*frames)))
    assert (video.frames, video.size, video.seconds) == (frames, SIZE, count / 4)
    assert (video.entry, video.decoder[0], video.keys) == ("av01", 0x81, [0])


def test_the_index_comes_before_the_frames():
    """So that what is still being fetched plays."""
    assert [kind for kind, _ in boxes(mp4(film(b"x", frames_per_s=1)))] == ["ftyp", "moov", "mdat"]


def test_a_decoder_sees_what_was_filmed():
    """Each picture in its turn, over the border of two pieces that were encoded by themselves."""
    pieces = [encoded([Image.new("RGB", SIZE, colour) for colour in COLOURS]) for _ in range(2)]
    frames = [frame for piece in pieces for frame in piece.frames]
    entry = pieces[0].entry
    video = Video(mp4(Film(entry=entry, brand=b"av01", frames=frames, keys=(0, 5), size=SIZE, frames_per_s=5)))
    assert (video.seconds, video.keys) == (2, [0, 5])
    for seen, colour in zip(video.pictures(), COLOURS * 2, strict=True):
        assert seen.size == SIZE
        middle, wanted = seen.getpixel((32, 24)), Image.new("RGB", (1, 1), colour).getpixel((0, 0))
        assert middle == pytest.approx(wanted, abs=6)
