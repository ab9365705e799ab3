"""What three kinds of sound files say of their length: WAV, Ogg and WebM, read where it stands, at the end if need be.

Browsers record WebM without a length in its head; Ogg has it in its last page only. Nothing here is searched in Python
longer than a few thousand steps. `sounds` judges what is said.
"""

import struct

_MOST_CHUNKS = 64
_PLAIN_SAMPLES = (1, 3, 6, 7)
"""WAV's formats of samples side by side: integers, floats, A-law, µ-law."""
_EXTENSIBLE = 0xFFFE
_MOST_RATE, _MOST_CHANNELS, _MOST_BITS = 768_000, 32, 64
_OPUS_RATE = 48_000
_EBML, _CLUSTER, _TIME_SCALE = b"\x1a\x45\xdf\xa3", b"\x1f\x43\xb6\x75", b"\x2a\xd7\xb1"
_TIME, _BLOCK, _BLOCK_GROUP, _SIMPLE_BLOCK = 0xE7, 0xA1, 0xA0, 0xA3
_NANO_PER_MS = 1_000_000
_MOST_BLOCKS = 10_000
_HEAD = 1 << 16


def wav_ms(data: bytes) -> tuple[int, int] | None:
    """A WAV file's plain samples: those that its header counts, and all that are there. None for any other file.

    Who writes into a pipe does not know how many will come, and says none or the most that the field can hold.
    """
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        return None
    at, bytes_per_s = 12, 0
    for _ in range(_MOST_CHUNKS):
        if at + 8 > len(data):
            return None
        name, size = struct.unpack_from("<4sI", data, at)
        if name == b"data":
            there = len(data) - at - 8
            said = min(size, there) or there
            return (said * 1000 // bytes_per_s, there * 1000 // bytes_per_s) if bytes_per_s else None
        if name == b"fmt ":
            bytes_per_s = _bytes_per_s(data[at + 8 : at + 8 + size])
        at += 8 + size + size % 2
    return None


def wav_bytes_per_s(head: bytes) -> int:
    """How many bytes of a WAV file that begins so are a second of its samples; 0 where that can't be told."""
    at = head.find(b"fmt ")
    return _bytes_per_s(head[at + 8 :]) if at >= 0 else 0


def _bytes_per_s(header: bytes) -> int:
    """How many bytes of plain samples are a second; 0 where they are none, or such as nobody plays."""
    if len(header) < 16:
        return 0
    kind, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", header)
    if kind == _EXTENSIBLE and len(header) >= 26:
        (kind,) = struct.unpack_from("<H", header, 24)
    known = kind in _PLAIN_SAMPLES and rate <= _MOST_RATE and channels <= _MOST_CHANNELS and bits <= _MOST_BITS
    return rate * channels * -(-bits // 8) if known else 0


def ogg_ms(data: bytes) -> int:
    """An Ogg file's length by its last page; 0 where it can't be read."""
    last = data.rfind(b"OggS")
    first = data[28 : 28 + 64]
    if data[:4] != b"OggS" or len(data) < last + 14:
        return 0
    samples, skipped = struct.unpack_from("<q", data, last + 6)[0], 0
    if first.startswith(b"OpusHead"):
        rate = _OPUS_RATE
        skipped = int.from_bytes(first[10:12], "little")
    elif first.startswith(b"\x01vorbis"):
        rate = int.from_bytes(first[12:16], "little")
    elif first.startswith(b"\x7fFLAC"):
        rate = int.from_bytes(first[27:30], "big") >> 4
    else:
        return 0
    return max(0, (samples - skipped) * 1000 // rate) if rate else 0


def webm_ms(data: bytes) -> int:
    """A WebM file's length by the blocks of its last cluster; 0 where it can't be read."""
    at = data.rfind(_CLUSTER)
    if data[:4] != _EBML or at < 0:
        return 0
    scale = _NANO_PER_MS
    found = data.find(_TIME_SCALE, 0, _HEAD)
    if found >= 0:
        size, start = _size(data, found + 3)
        scale = int.from_bytes(data[start : start + min(size, 8)], "big")
    _, at = _size(data, at + 4)
    base = last = 0
    for _ in range(_MOST_BLOCKS):
        if at + 2 > len(data):
            break
        kind = data[at]
        size, at = _size(data, at + 1)
        if kind == _TIME:
            base = int.from_bytes(data[at : at + min(size, 8)], "big")
        elif kind in (_SIMPLE_BLOCK, _BLOCK) and at + 3 <= len(data):
            last = max(last, struct.unpack_from(">h", data, at + 1)[0])
        at += 0 if kind == _BLOCK_GROUP else size
    return (base + last) * scale // _NANO_PER_MS


def _size(data: bytes, at: int) -> tuple[int, int]:
    """An EBML size, and where what it is of begins; a cluster that is being recorded has an unknown one."""
    first = data[at] if at < len(data) else 0
    length = 9 - first.bit_length()
    if length > 8:
        return len(data), at + 1
    return int.from_bytes(data[at : at + length], "big") & ((1 << 7 * length) - 1), at + length
