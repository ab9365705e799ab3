"""Plain samples into the six formats of OpenAI's speech, piece by piece as they are made.

Samples are 16 bits, one channel, little-endian. MP3, Opus and FLAC are made by libsndfile, which is loaded with the
first of them; AAC by a program beside us, where there is one; WAV and PCM need nothing. What is streamed can't say how
long it will be: its WAV and FLAC leave the length open, as OpenAI's do. `encoded` knows, and says it.
"""

import contextlib
import dataclasses
import io
import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, Protocol, get_args

from upstream.aac import AacProgram, ffmpeg_path
from upstream.outcome import ProviderMisbehaved

if TYPE_CHECKING:
    from upstream.sound_samples import Changed

SpeechFormat = Literal["mp3", "opus", "aac", "flac", "wav", "pcm"]
FORMATS: tuple[SpeechFormat, ...] = get_args(SpeechFormat)
CONTENT_TYPES: Mapping[SpeechFormat, str] = {
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "aac": "audio/aac",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
}
RATE = 24_000
"""Samples a second of everything that comes out: OpenAI's, which a listener to `pcm` has to know."""
BYTES_PER_SAMPLE = 2
_UNKNOWN_SIZE = 0xFFFFFFFF
_LEAST_RATE, _MOST_RATE, _MOST_CHANNELS = 8000, 192_000, 8
_BLOCK = 1 << 15
_MOST_BYTES = 512 << 20
_FILE_MARKS = (b"RIFF", b"OggS", b"fLaC", b"ID3")


class FormatMissing(ValueError):
    """A format that this machine can't make; says why."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Codec:
    container: str
    subtype: str
    compression: float | None = None
    """From 0, the most bits, to 1; None: as the library likes it."""
    bit_rate_mode: str | None = None
    index_writes: int = 0
    """How many writes at the beginning are a place for an index that can only be filled in at the end."""


_CODECS: dict[SpeechFormat, _Codec] = {
    "mp3": _Codec(  # 64 kbit/s
        container="MP3", subtype="MPEG_LAYER_III", compression=0.6, bit_rate_mode="CONSTANT", index_writes=1
    ),
    "opus": _Codec(container="OGG", subtype="OPUS", compression=0.9),  # 31 kbit/s
    "flac": _Codec(container="FLAC", subtype="PCM_16"),
}


class _Coder(Protocol):
    """Samples in, a file out."""

    def feed(self, samples: bytes) -> bytes:
        """What of the file is ready."""

    def end(self) -> bytes:
        """The rest of it."""

    def close(self) -> None:
        """Gives back what it holds, also in the middle."""


class _Sink(io.RawIOBase):
    """What libsndfile writes into where it can't be gone back in: what it would fill in there later is lost."""

    def __init__(self, *, skips: int) -> None:
        self._ready = bytearray()
        self._at = self._size = 0
        self._skips = skips

    def write(self, data: object) -> int:
        piece = bytes(data)  # type: ignore[call-overload]  # a buffer, as of any file
        if self._at == self._size:
            self._size += len(piece)
            self._skips -= 1
            if self._skips < 0:
                self._ready += piece
        self._at += len(piece)
        return len(piece)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence] + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def taken(self) -> bytes:
        out = bytes(self._ready)
        self._ready.clear()
        return out


class _Whole(io.BytesIO):
    """The same where all of it is kept to the end."""

    def taken(self) -> bytes:
        return b""


class _Plain:
    """Bare samples, with the head of a WAV or without."""

    def __init__(self, head: bytes) -> None:
        self._head = head

    def feed(self, samples: bytes) -> bytes:
        head, self._head = self._head, b""
        return head + samples

    def end(self) -> bytes:
        return self.feed(b"")

    def close(self) -> None:
        """Nothing is held."""


class _Library:
    """libsndfile's encoder."""

    def __init__(self, codec: _Codec, file: _Sink | _Whole) -> None:
        import soundfile

        self._file = file
        self._sound = soundfile.SoundFile(
            file,
            "w",
            samplerate=RATE,
            channels=1,
            format=codec.container,
            subtype=codec.subtype,
            compression_level=codec.compression,
            bitrate_mode=codec.bit_rate_mode,
        )

    def feed(self, samples: bytes) -> bytes:
        if samples:
            self._sound.buffer_write(samples, dtype="int16")
        return self._file.taken()

    def end(self) -> bytes:
        self._sound.close()
        return self._file.taken() if isinstance(self._file, _Sink) else self._file.getvalue()

    def close(self) -> None:
        self._sound.close()


def missing(wanted: SpeechFormat) -> str:
    """Why this machine can't make that format; empty where it can."""
    if wanted != "aac" or ffmpeg_path() is not None:
        return ""
    others = ", ".join(each for each in FORMATS if each != "aac")
    return f"aac is made by the program ffmpeg, which is not installed on this machine; take one of {others}"


def _coder(wanted: SpeechFormat, whole: _Whole | None = None) -> _Coder:
    """What makes a file as it comes, or else the whole of it. Raises FormatMissing."""
    if wanted in _CODECS:
        codec = _CODECS[wanted]
        return _Library(codec, _Sink(skips=codec.index_writes) if whole is None else whole)
    if wanted == "aac":
        path = ffmpeg_path()
        if path is None:
            raise FormatMissing(missing(wanted))
        return AacProgram(path, rate=RATE)
    return _Plain(wav_head(None) if wanted == "wav" and whole is None else b"")


def _changed(rate: int, tempo: float = 1.0) -> "Changed":
    from upstream.sound_samples import Changed

    return Changed(rate=rate, wanted=RATE, tempo=tempo)


class SoundEncoder:
    """One sound: `feed` samples, get what of the file is ready, `end` it, `close` it. Blocks: to be used in a thread.

    `rate` is that of the samples that come; `tempo` 2 makes them twice as fast at their own pitch. Raises
    FormatMissing.
    """

    def __init__(self, wanted: SpeechFormat, *, rate: int = RATE, tempo: float = 1.0) -> None:
        self._coder = _coder(wanted)
        self._changed = _changed(rate, tempo) if rate != RATE or tempo != 1 else None
        self._odd = b""

    def feed(self, samples: bytes) -> bytes:
        """What of the file is ready now, possibly nothing. Raises AacFailed, as `end`."""
        samples = self._odd + samples
        whole = len(samples) - len(samples) % BYTES_PER_SAMPLE
        samples, self._odd = samples[:whole], samples[whole:]
        return self._coder.feed(samples if self._changed is None else self._changed.feed(samples))

    def end(self) -> bytes:
        """The rest of the file."""
        rest = b"" if self._changed is None else self._coder.feed(self._changed.end())
        return rest + self._coder.end()

    def close(self) -> None:
        """Ends what makes it, also in the middle."""
        self._coder.close()


class FileEncoder:
    """One whole file, whose head says how long it is; of samples at RATE. Blocks. Raises FormatMissing."""

    def __init__(self, wanted: SpeechFormat) -> None:
        self._whole = _Whole()
        self._coder = _coder(wanted, self._whole)
        self._is_wav = wanted == "wav"
        self._made = bytearray()

    def feed(self, samples: bytes) -> int:
        """Takes whole samples in; returns how large the file is so far. Raises AacFailed, as `end`."""
        self._made += self._coder.feed(samples)
        return len(self._made) + len(self._whole.getbuffer())

    def end(self) -> bytes:
        """The file."""
        made = bytes(self._made) + self._coder.end()
        return wav_head(len(made)) + made if self._is_wav else made

    def close(self) -> None:
        """Ends what makes it, also in the middle."""
        self._coder.close()


def encoded(samples: bytes, wanted: SpeechFormat) -> bytes:
    """The whole file of these samples. Blocks. Raises FormatMissing, AacFailed."""
    with contextlib.closing(FileEncoder(wanted)) as encoder:
        encoder.feed(samples)
        return encoder.end()


def plain_samples(sound: bytes) -> bytes:
    """What should be bare samples, also where a provider sent them in a file of some kind. Blocks.

    Raises ProviderMisbehaved for one that can't be read.
    """
    if not sound.startswith(_FILE_MARKS):
        return sound[: len(sound) - len(sound) % BYTES_PER_SAMPLE]
    import soundfile

    try:
        with soundfile.SoundFile(io.BytesIO(sound)) as file:
            file.seekable = lambda: False  # else each read seeks, which a FLAC file of open length refuses
            if not (_LEAST_RATE <= file.samplerate <= _MOST_RATE and file.channels <= _MOST_CHANNELS):
                raise ProviderMisbehaved("the provider sent a sound of an odd rate")
            changed, samples = _changed(file.samplerate), bytearray()
            while len(block := file.read(_BLOCK, dtype="int16", always_2d=True)):
                mono = block[:, 0] if file.channels == 1 else block.mean(axis=1).round().astype("int16")
                samples += changed.feed(mono.tobytes())
                if len(samples) > _MOST_BYTES:
                    raise ProviderMisbehaved("the provider sent a sound without end")
            return bytes(samples + changed.end())
    except soundfile.LibsndfileError as error:
        raise ProviderMisbehaved("the provider sent a sound that can't be read") from error


def wav_head(size: int | None) -> bytes:
    """The head of a WAV file with so many bytes of samples at RATE; None: nobody knows how many will come."""
    data_size = _UNKNOWN_SIZE if size is None else size
    riff_size = _UNKNOWN_SIZE if size is None else 36 + size
    samples = struct.pack("<HHIIHH", 1, 1, RATE, RATE * BYTES_PER_SAMPLE, BYTES_PER_SAMPLE, 8 * BYTES_PER_SAMPLE)
    return (
        struct.pack("<4sI4s4sI", b"RIFF", riff_size, b"WAVE", b"fmt ", 16)
        + samples
        + struct.pack("<4sI", b"data", data_size)
    )
