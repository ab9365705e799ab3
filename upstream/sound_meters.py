"""How long a sound is that is still being made: told by its bytes as they pass, without decoding them.

Every format is read by its frames or pages, or for plain samples by their number. What can't be read counts nothing;
whoever asks has to have an estimate. `kind_of` tells a format by its first bytes, since providers don't always send
what they were asked for.
"""

import struct
from collections.abc import Callable
from typing import Protocol

from upstream.containers import wav_bytes_per_s
from upstream.sound_encoder import BYTES_PER_SAMPLE, RATE, SpeechFormat

_MS = 1000
_MARKS: dict[SpeechFormat, bytes] = {"wav": b"RIFF", "opus": b"OggS", "flac": b"fLaC", "mp3": b"ID3"}
_HEAD = 4096
_MOST_PENDING = 1 << 17
"""More than an Ogg page can have."""
_MP3_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
_MP3_KBITS = {
    True: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    False: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_AAC_RATES = (96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000, 7_350)
_OPUS_RATE = 48_000
_FIRST_FRAME = 48
"""So much of it says whether it is a table of contents."""
_FLAC_TAIL = 1 << 16
_FLAC_SYNC = (b"\xff\xf8", b"\xff\xf9")
_FLAC_HEAD = 16


class Meter(Protocol):
    """Measures one sound."""

    def feed(self, data: bytes) -> None:
        """Takes in the next bytes."""

    @property
    def ms(self) -> int:
        """Milliseconds so far; 0 for what can't be read."""


def kind_of(head: bytes) -> SpeechFormat | None:
    """The format of a sound that begins so; None where it can't be told, as of bare samples."""
    for kind, mark in _MARKS.items():
        if head.startswith(mark):
            return kind
    if len(head) > 8 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:
        return "aac"
    return "mp3" if len(head) > 2 and _mp3_frame(head, 0) is not None else None


def meter_of(kind: SpeechFormat) -> Meter:
    """The meter for a sound of this format."""
    if kind == "mp3":
        return _Frames(_mp3_frame)
    if kind == "aac":
        return _Frames(_aac_frame)
    if kind == "opus":
        return _Pages()
    return _Flac() if kind == "flac" else _Samples(has_head=kind == "wav")


class _Samples:
    """WAV, and bare samples as OpenAI's `pcm` has them."""

    def __init__(self, *, has_head: bool) -> None:
        self._bytes = 0
        self._head = b""
        self._has_head = has_head
        self._bytes_per_s = 0 if has_head else RATE * BYTES_PER_SAMPLE

    def feed(self, data: bytes) -> None:
        if not self._has_head:
            self._bytes += len(data)
            return
        self._head += data
        at = self._head.find(b"data")
        if at >= 0 and len(self._head) >= at + 8:
            self._bytes_per_s = wav_bytes_per_s(self._head)
            self._bytes, self._head, self._has_head = len(self._head) - at - 8, b"", False
        elif len(self._head) > _HEAD:
            self._head, self._has_head = b"", False

    @property
    def ms(self) -> int:
        return self._bytes * _MS // self._bytes_per_s if self._bytes_per_s else 0


def _mp3_frame(data: bytes, at: int) -> tuple[int, int, int] | None:
    """Bytes, samples and rate of the MP3 frame that begins here; None where none does."""
    if data[at] != 0xFF or data[at + 1] & 0xE6 != 0xE2:
        return None
    version = data[at + 1] >> 3 & 3
    kbit, rate = data[at + 2] >> 4, data[at + 2] >> 2 & 3
    if version == 1 or kbit in (0, 15) or rate == 3:
        return None
    is_first = version == 3
    hertz = _MP3_RATES[version][rate]
    length = (144 if is_first else 72) * _MP3_KBITS[is_first][kbit] * 1000 // hertz + (data[at + 2] >> 1 & 1)
    return length, 1152 if is_first else 576, hertz


def _aac_frame(data: bytes, at: int) -> tuple[int, int, int] | None:
    """The same of an AAC frame (ADTS)."""
    if data[at] != 0xFF or data[at + 1] & 0xF6 != 0xF0:
        return None
    rate = data[at + 2] >> 2 & 15
    length = (data[at + 3] & 3) << 11 | data[at + 4] << 3 | data[at + 5] >> 5
    if rate >= len(_AAC_RATES) or length < 7:
        return None
    return length, 1024 * ((data[at + 6] & 3) + 1), _AAC_RATES[rate]


class _Frames:
    """MP3 and AAC: frames, each of which says how long it is."""

    def __init__(self, read: Callable[[bytes, int], tuple[int, int, int] | None]) -> None:
        self._read = read
        self._pending = b""
        self._skip = 0
        self._begun = False
        self._samples = 0
        self._rate = 0

    def feed(self, data: bytes) -> None:
        if self._skip >= len(data):
            self._skip -= len(data)
            return
        data, self._skip = self._pending + data[self._skip :], 0
        at = self._after_tag(data)
        while at + (7 if self._begun else _FIRST_FRAME) <= len(data):
            frame = self._read(data, at)
            if frame is None:
                at = _found(data, b"\xff", at + 1)
                continue
            length, samples, rate = frame
            if not self._is_index(data[at : at + _FIRST_FRAME]):
                self._samples += samples
                self._rate = rate
            self._begun = True
            at += length
        self._pending, self._skip = data[at:], max(0, at - len(data))

    def _after_tag(self, data: bytes) -> int:
        if self._begun or not data.startswith(b"ID3") or len(data) < 10:
            return 0
        return 10 + (data[6] << 21 | data[7] << 14 | data[8] << 7 | data[9])

    def _is_index(self, frame: bytes) -> bool:
        """Whether this is the first frame of a file with a table of contents, which is no sound."""
        return not self._begun and (b"Xing" in frame or b"Info" in frame)

    @property
    def ms(self) -> int:
        return self._samples * _MS // self._rate if self._rate else 0


class _Pages:
    """Ogg: pages, each of which says how many samples there are up to its end."""

    def __init__(self) -> None:
        self._pending = b""
        self._skipped = 0
        self._rate = _OPUS_RATE
        self._samples = 0

    def feed(self, data: bytes) -> None:
        data = self._pending + data
        at = 0
        while at + 27 <= len(data):
            if data[at : at + 4] != b"OggS":
                at = _found(data, b"OggS", at + 1)
                continue
            start = at + 27 + data[at + 26]
            end = start + sum(data[at + 27 : start])
            if len(data) < end:
                break
            self._read(data[start:end], struct.unpack_from("<q", data, at + 6)[0])
            at = end
        self._pending = data[at:][-_MOST_PENDING:]

    def _read(self, body: bytes, samples: int) -> None:
        if body.startswith(b"OpusHead") and len(body) >= 12:
            self._skipped = int.from_bytes(body[10:12], "little")
        elif body.startswith(b"\x01vorbis") and len(body) >= 16:
            self._rate = int.from_bytes(body[12:16], "little")
        self._samples = max(self._samples, samples)

    @property
    def ms(self) -> int:
        return max(0, self._samples - self._skipped) * _MS // self._rate if self._rate else 0


class _Flac:
    """FLAC: its head says the rate, its last frame which one it is."""

    def __init__(self) -> None:
        self._head = b""
        self._tail = b""

    def feed(self, data: bytes) -> None:
        if len(self._head) < 42:
            self._head += data[: 42 - len(self._head)]
        self._tail = (self._tail + data)[-_FLAC_TAIL:]

    @property
    def ms(self) -> int:
        if len(self._head) < 42 or not self._head.startswith(b"fLaC"):
            return 0
        block, rate = int.from_bytes(self._head[10:12], "big"), int.from_bytes(self._head[18:21], "big") >> 4
        samples = self._samples(block)
        return samples * _MS // rate if rate else 0

    def _samples(self, block: int) -> int:
        """Samples up to the end of the last frame whose head is whole."""
        at = len(self._tail)
        while (at := max(self._tail.rfind(sync, 0, at) for sync in _FLAC_SYNC)) >= 0:
            found = _flac_frame(self._tail[at : at + _FLAC_HEAD], block)
            if found is not None:
                return found
        return 0


def _flac_frame(head: bytes, block: int) -> int | None:
    """Samples up to the end of the FLAC frame that begins so; None for bytes that only look like one."""
    if len(head) < _FLAC_HEAD:
        return None
    length = max(1, 8 - (head[4] ^ 0xFF).bit_length())  # of the number, which is coded as UTF-8 is
    number = head[4] & (0x7F if length == 1 else 0x7F >> length)
    for byte in head[5 : 4 + length]:
        number = number << 6 | byte & 0x3F
    at = 4 + length
    code = head[2] >> 4
    size = _flac_block(code, head, at)
    at += {6: 1, 7: 2}.get(code, 0)
    at += {12: 1, 13: 2, 14: 2}.get(head[2] & 15, 0)
    if not size or at >= len(head) or _crc8(head[:at]) != head[at]:
        return None
    return number + size if head[1] & 1 else number * block + size


def _flac_block(code: int, head: bytes, at: int) -> int:
    if code == 6:
        return head[at] + 1
    if code == 7:
        return int.from_bytes(head[at : at + 2], "big") + 1
    if code == 1:
        return 192
    return 576 << code - 2 if 2 <= code <= 5 else 256 << code - 8 if code >= 8 else 0


def _crc8(data: bytes) -> int:
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc << 1 ^ 0x07) & 0xFF if crc & 0x80 else crc << 1
    return crc


def _found(data: bytes, what: bytes, start: int) -> int:
    """Where it is, or else the end but for what could be its beginning."""
    at = data.find(what, start)
    return at if at >= 0 else max(start, len(data) - len(what) + 1)
