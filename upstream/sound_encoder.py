"""Plain samples into the six formats of OpenAI's speech, piece by piece as they are made.

Samples are 16 bits, one channel, little-endian. MP3, Opus, AAC and FLAC are made by FFmpeg's libraries (PyAV), which
are loaded with the first of them; WAV and PCM need nothing. What is streamed can't say how long it will be: its WAV
and FLAC leave the length open, as OpenAI's do. `encoded` knows, and says it.
"""

import contextlib
import dataclasses
import io
import struct
from collections.abc import Mapping
from fractions import Fraction
from typing import IO, TYPE_CHECKING, Literal, cast, get_args

from upstream.outcome import ProviderMisbehaved

if TYPE_CHECKING:
    from av import AudioFrame
    from av.audio.stream import AudioStream
    from av.container import OutputContainer
    from av.filter import Graph

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
_FILE_MARKS = (b"RIFF", b"OggS", b"fLaC", b"ID3")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Codec:
    container: str
    codec: str
    bit_rate: int
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Of the container."""
    effort: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Of the encoder: what is good enough for speech at a fraction of the time."""


_CODECS: dict[SpeechFormat, _Codec] = {
    "mp3": _Codec(
        container="mp3",
        codec="libmp3lame",
        bit_rate=64_000,
        options={"id3v2_version": "0"},
        effort={"compression_level": "7"},
    ),
    "opus": _Codec(
        container="ogg",
        codec="libopus",
        bit_rate=32_000,
        options={"page_duration": "200000"},
        effort={"compression_level": "3", "application": "voip"},
    ),
    "aac": _Codec(container="adts", codec="aac", bit_rate=64_000, effort={"aac_coder": "fast"}),
    "flac": _Codec(container="flac", codec="flac", bit_rate=0),
}
_STREAMED = {"mp3": {"write_xing": "0"}}
"""A head that could only be filled in at the end."""


class _Pipe:
    """What FFmpeg writes into: it can't be gone back in, so nothing waits for the end."""

    def __init__(self) -> None:
        self._written = bytearray()

    def write(self, data: bytes) -> int:
        self._written += data
        return len(data)

    def taken(self) -> bytes:
        out = bytes(self._written)
        self._written.clear()
        return out


class SoundEncoder:
    """One sound: `feed` samples, get what of the file is ready, `end` it. Blocks: to be used in a thread.

    `rate` is that of the samples that come; `tempo` 2 makes them twice as fast at their own pitch (0.5 to 4).
    """

    def __init__(self, wanted: SpeechFormat, *, rate: int = RATE, tempo: float = 1.0) -> None:
        self._pipe = _Pipe()
        self._plain = wanted in ("wav", "pcm")
        self._head = wav_head(None) if wanted == "wav" else b""
        self._odd = b""
        self._coder = None
        if not self._plain or rate != RATE or tempo != 1:
            self._coder = _Coder(wanted, self._pipe, rate=rate, options=_STREAMED.get(wanted, {}), tempo=tempo)

    def feed(self, samples: bytes) -> bytes:
        """What of the file is ready now, possibly nothing."""
        samples = self._odd + samples
        whole = len(samples) - len(samples) % BYTES_PER_SAMPLE
        samples, self._odd = samples[:whole], samples[whole:]
        head, self._head = self._head, b""
        if self._coder is None:
            return head + samples
        self._coder.feed(samples)
        return head + self._pipe.taken()

    def end(self) -> bytes:
        """The rest of the file."""
        head, self._head = self._head, b""
        if self._coder is not None:
            self._coder.end()
        return head + self._pipe.taken()


class FileEncoder:
    """One whole file, whose head says how long it is; of samples at RATE. Blocks."""

    def __init__(self, wanted: SpeechFormat) -> None:
        self._file = io.BytesIO()
        self._is_wav = wanted == "wav"
        self._coder = _Coder(wanted, self._file, rate=RATE, options={}) if wanted in _CODECS else None

    def feed(self, samples: bytes) -> int:
        """Takes whole samples in; returns how large the file is so far."""
        if self._coder is None:
            self._file.write(samples)
        else:
            self._coder.feed(samples)
        return self._file.tell()

    def end(self) -> bytes:
        """The file."""
        if self._coder is not None:
            self._coder.end()
        made = self._file.getvalue()
        return wav_head(len(made)) + made if self._is_wav else made


def encoded(samples: bytes, wanted: SpeechFormat) -> bytes:
    """The whole file of these samples. Blocks."""
    encoder = FileEncoder(wanted)
    encoder.feed(samples)
    return encoder.end()


def plain_samples(sound: bytes) -> bytes:
    """What should be bare samples, also where a provider sent them in a file of some kind. Blocks.

    Raises ProviderMisbehaved for one that can't be read.
    """
    if not sound.startswith(_FILE_MARKS):
        return sound[: len(sound) - len(sound) % BYTES_PER_SAMPLE]
    import av

    try:
        with av.open(io.BytesIO(sound), mode="r") as file:
            resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE)
            frames = [each for frame in file.decode(audio=0) for each in resampler.resample(frame)]
            frames += resampler.resample(None)
    except (av.FFmpegError, IndexError) as error:
        raise ProviderMisbehaved("the provider sent a sound that can't be read") from error
    return b"".join(bytes(frame.planes[0])[: frame.samples * BYTES_PER_SAMPLE] for frame in frames)


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


class _Coder:
    """FFmpeg's encoder and container, or for plain formats only its change of the rate."""

    def __init__(
        self,
        wanted: SpeechFormat,
        file: "io.BytesIO | _Pipe",
        *,
        rate: int,
        options: Mapping[str, str],
        tempo: float = 1.0,
    ) -> None:
        import av

        self._av = av
        self._tempo = _tempo(rate, tempo) if tempo != 1 else None
        self._rate = rate
        self._at = 0
        self._file = file
        self._container: OutputContainer | None = None
        self._stream: AudioStream | None = None
        shape = "s16"
        if wanted in _CODECS:
            codec = _CODECS[wanted]
            self._container = av.open(
                cast("IO[bytes]", file), mode="w", format=codec.container, options={**codec.options, **options}
            )
            stream = cast(
                "AudioStream",
                self._container.add_stream(codec.codec, rate=RATE, options=dict(codec.effort), layout="mono"),
            )
            if codec.bit_rate:
                stream.bit_rate = codec.bit_rate
            shape = (stream.codec_context.codec.audio_formats or [])[0].name
            self._stream = stream
        self._resampler = av.AudioResampler(format=shape, layout="mono", rate=RATE)

    def feed(self, samples: bytes) -> None:
        if not samples:
            return
        frame = self._av.AudioFrame(format="s16", layout="mono", samples=len(samples) // BYTES_PER_SAMPLE)
        frame.planes[0].update(samples.ljust(frame.planes[0].buffer_size, b"\0"))
        frame.sample_rate, frame.pts = self._rate, self._at
        self._at += frame.samples
        self._stretch(frame)

    def end(self) -> None:
        if self._at:
            if self._tempo is not None:
                self._stretch(None)
            self._write(None)
        if self._stream is None or self._container is None:
            return
        for packet in self._stream.encode(None):
            self._container.mux(packet)
        self._container.close()

    def _stretch(self, frame: "AudioFrame | None") -> None:
        if self._tempo is None:
            self._write(frame)
            return
        self._tempo.push(frame)
        with contextlib.suppress(BlockingIOError, EOFError):  # FFmpeg's ways to say that it needs more, or is done
            while True:
                self._write(cast("AudioFrame", self._tempo.pull()))

    def _write(self, frame: "AudioFrame | None") -> None:
        for ready in self._resampler.resample(frame):
            if self._stream is None or self._container is None:
                self._file.write(bytes(ready.planes[0])[: ready.samples * BYTES_PER_SAMPLE])
                continue
            for packet in self._stream.encode(ready):
                self._container.mux(packet)


def _tempo(rate: int, tempo: float) -> "Graph":
    from av.filter import Graph

    graph = Graph()
    source = graph.add_abuffer(format="s16", sample_rate=rate, layout="mono", time_base=Fraction(1, rate))
    stretch, sink = graph.add("atempo", f"{tempo:.4f}"), graph.add("abuffersink")
    source.link_to(stretch)
    stretch.link_to(sink)
    graph.configure()
    return graph
