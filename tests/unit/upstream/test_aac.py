"""The program that makes AAC, by stand-ins that hand on what they read, end early or are stuck; and the real one."""

import shlex
from pathlib import Path

import pytest

from tests.fakes.listener import heard, needs_ffmpeg
from upstream import aac
from upstream.aac import AacFailed, AacProgram, ffmpeg_path

SAMPLES = bytes(range(256)) * 4000


def program(folder: Path, script: str) -> AacProgram:
    """A stand-in of shell commands."""
    file = folder / "ffmpeg"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)
    return AacProgram(str(file), rate=24_000)


def test_all_that_it_makes_comes_out(tmp_path: Path):
    """However much more than a pipe holds; the options are ffmpeg's."""
    told = tmp_path / "options"
    running = program(tmp_path, f'echo "$@" > {shlex.quote(str(told))}; exec cat')
    assert running.feed(SAMPLES) + running.end() == SAMPLES
    running.close()
    assert "-f s16le -ar 24000 -ac 1 -i pipe:0 -c:a aac" in told.read_text()


@pytest.mark.parametrize("script", ["exit 1", "head -c 1000; exit 3", "cat; exit 1"])
def test_one_that_ends_before_its_time_is_a_failure(*, tmp_path: Path, script: str):
    """And no file."""
    running = program(tmp_path, script)
    with pytest.raises(AacFailed):
        _ = running.feed(SAMPLES) + running.end()
    running.close()


def test_one_that_is_stuck_is_not_waited_for(*, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Longer than it may."""
    monkeypatch.setattr(aac, "_WAITS_S", 0.1)
    running = program(tmp_path, "exec sleep 600")
    with pytest.raises(AacFailed, match="neither"):
        running.feed(SAMPLES)
    running.close()
    running.close()


@needs_ffmpeg
def test_the_real_one_makes_a_second_of_a_second():
    """By the frames of the file."""
    running = AacProgram(ffmpeg_path() or "", rate=24_000)
    container, played = heard(running.feed(bytes(48_000)) + running.end())
    running.close()
    assert (container, played) == ("aac", pytest.approx(1, abs=0.1))
