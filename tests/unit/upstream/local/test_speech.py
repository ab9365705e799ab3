"""Speech by programs beside us: with a stand-in for espeak-ng, with the real one, and with piper, where they are."""

import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from tests.fakes.listener import FORMATS_HERE, heard
from tests.unit.edge.world import until
from tests.unit.upstream.local.house import House, house
from upstream.local import speech
from upstream.local.failure import Refused
from upstream.local.installed import ESPEAK, PIPER, espeak_path, has_piper
from upstream.sound_encoder import CONTENT_TYPES

TEXT = "Hello there. This is a test of the voice that speaks here."
STAND_IN = f"""#!{sys.executable}
import os, sys, time
words = sys.stdin.read().split()
voice, speed = sys.argv[sys.argv.index("-v") + 1], int(sys.argv[sys.argv.index("-s") + 1])
if voice == "tlh":
    sys.exit(1)
sys.stdout.buffer.write(b"RIFF" + bytes(40))
for word in words:
    sys.stdout.buffer.write(bytes(2 * 22050 * 60 // speed))
    sys.stdout.buffer.flush()
    if word == "wait":
        open(os.path.join(os.path.dirname(__file__), "pid"), "w").write(str(os.getpid()))
        time.sleep(600)
    if word == "fail":
        sys.exit(1)
"""


@pytest.fixture
async def at() -> AsyncIterator[House]:
    """The process' HTTP."""
    async with house() as made:
        yield made


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An espeak-ng that is silent, a minute for as many words as it is told."""
    program = tmp_path / "espeak-ng"
    program.write_text(STAND_IN)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def is_running(pid: int) -> bool:
    """Whether there is such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def whole(model: str, **fields: object) -> bytes:
    """All that is spoken."""
    request = speech.SpeechRequest(model=model, input=TEXT, **fields)
    return b"".join([piece async for piece in speech.spoken(request)])


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize("wanted", FORMATS_HERE)
async def test_what_the_program_says_comes_in_the_format_asked_for(*, at: House, wanted: str):
    """With its type, twelve words long."""
    body = {"model": ESPEAK, "input": TEXT, "response_format": wanted}
    async with at.client.post(f"{at.url}/audio/speech", json=body) as reply:
        sound = await reply.read()
        assert (reply.status, reply.content_type) == (200, CONTENT_TYPES[wanted])
    container, played = ("pcm", len(sound) / 48_000) if wanted == "pcm" else heard(sound)
    assert container == wanted
    assert played == pytest.approx(12 * 60 / 175, abs=0.1)


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize("speed", [0.25, 0.5, 2.0, 4.0])
async def test_speed_is_kept_also_where_the_program_can_not(speed: float):
    """Beyond its limits the sound is stretched."""
    assert heard(await whole(ESPEAK, speed=speed, response_format="wav"))[1] == pytest.approx(
        12 * 60 / 175 / speed, rel=0.05
    )


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"voice": "--help"}, "voice"),
        ({"voice": "tlh"}, "voice"),
        ({"speed": 5}, "speed"),
        ({"response_format": "midi"}, "response_format"),
        ({"input": " . "}, "input"),
        ({"input": "x" * 5000}, "input"),
    ],
)
async def test_what_it_can_not_speak_is_refused_by_its_field(*, at: House, fields: dict, param: str):
    """Never handed to the program as an option."""
    status, answer = await at.post("/audio/speech", {"model": ESPEAK, "input": TEXT, **fields})
    assert (status, answer["error"]["param"]) == (400, param), answer


async def test_a_program_that_is_not_there_is_said_clearly(*, at: House, monkeypatch: pytest.MonkeyPatch, tmp_path):
    """As the fault of nobody's account."""
    monkeypatch.setenv("PATH", str(tmp_path))
    status, answer = await at.post("/audio/speech", {"model": ESPEAK, "input": TEXT})
    assert (status, "not installed" in answer["error"]["message"]) == (400, True)


async def test_a_format_that_is_made_by_no_program_here_is_refused_by_its_field(
    *, at: House, stand_in: Path, monkeypatch: pytest.MonkeyPatch
):
    """As one that there isn't is."""
    monkeypatch.setenv("PATH", str(stand_in))
    status, answer = await at.post("/audio/speech", {"model": ESPEAK, "input": TEXT, "response_format": "aac"})
    assert (status, answer["error"]["param"]) == (400, "response_format")
    assert "ffmpeg" in answer["error"]["message"]


async def test_who_leaves_ends_the_program_of_the_format_too(*, at: House, stand_in: Path):
    """ffmpeg's stand-in hands on what it reads, and would for ever."""
    told = stand_in / "pid-of-ffmpeg"
    program = stand_in / "ffmpeg"
    program.write_text(f"#!/bin/sh\necho $$ > {told}\nexec cat\n")
    program.chmod(0o755)
    body = {"model": ESPEAK, "input": "a b c wait d", "response_format": "aac"}
    async with at.client.post(f"{at.url}/audio/speech", json=body) as reply:
        await reply.content.readany()
        assert is_running(int(told.read_text()))
    await until(lambda: not is_running(int(told.read_text())), within_s=20)


async def test_who_leaves_ends_the_program(*, at: House, stand_in: Path):
    """Which would speak on for nobody."""
    told = stand_in / "pid"
    body = {"model": ESPEAK, "input": "a b c wait d", "response_format": "pcm"}
    async with at.client.post(f"{at.url}/audio/speech", json=body) as reply:
        await reply.content.readany()
        await until(lambda: told.exists() and told.read_text() != "", within_s=20)
    await until(lambda: not is_running(int(told.read_text())), within_s=20)


@pytest.mark.usefixtures("stand_in")
async def test_a_program_that_dies_mid_way_cuts_the_answer(at: House):
    """Which then does not look whole."""
    body = {"model": ESPEAK, "input": "a b c d fail", "response_format": "pcm"}
    with pytest.raises(aiohttp.ClientError):
        async with at.client.post(f"{at.url}/audio/speech", json=body) as reply:
            await reply.read()


@pytest.mark.skipif(espeak_path() is None, reason="espeak-ng is not on this machine")
async def test_espeak_ng_speaks():
    """A sentence of a few seconds, and no voice that it doesn't have."""
    assert 2 < heard(await whole(ESPEAK, voice="nova"))[1] < 8
    with pytest.raises(Refused, match="voice"):
        await whole(ESPEAK, voice="qqx")


@pytest.mark.skipif(not has_piper(), reason="the extra local-models is not installed")
async def test_piper_speaks():
    """A sentence of a few seconds."""
    assert 2 < heard(await whole(PIPER))[1] < 8
