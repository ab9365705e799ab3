"""The muxer: what a player finds in its file."""

import pytest

from tests.fakes.player import Video, boxes
from upstream.sandbox.mp4 import mp4


@pytest.mark.parametrize("count", [1, 3, 240])
def test_a_player_finds_every_frame(count: int):
    """At its place, of the size and length that were told, said to be JPEG."""
    frames = [bytes([number % 256]) * (number + 1) for number in range(count)]
    video = Video(mp4(frames, size=(720, 1280), frames_per_s=4))
    assert (video.frames, video.size, video.seconds) == (frames, (720, 1280), count / 4)
    assert (video.entry, video.decoder[:2], video.decoder[5]) == ("mp4v", bytes([3, len(video.decoder) - 2]), 4)
    assert video.decoder[7] == 0x6C


def test_the_index_comes_before_the_frames():
    """So that what is still being fetched plays."""
    assert [kind for kind, _ in boxes(mp4([b"x"], size=(2, 2), frames_per_s=1))] == ["ftyp", "moov", "mdat"]
