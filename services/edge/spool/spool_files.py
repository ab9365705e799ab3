"""The spool's files: how a record lies on disk, how it is read back, and who may touch it.

Reading stops at the first record that is not whole, so a tail torn by a crash is cut. Nothing here knows of segments'
lives or of an event loop; that is `services.edge.spool.spool`.
"""

import fcntl
import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from enum import IntEnum
from pathlib import Path

import msgspec

MAX_RECORD_BYTES = 1 << 20
LOCK = "lock"
KEY_BYTES = 16

_HEAD = struct.Struct("<II")  # length of what follows, its CRC-32
_POSITION = struct.Struct("<I")
_GONE_AT_ONCE = 10_000
_fdatasync = getattr(os, "fdatasync", os.fsync)  # macOS has none


class Kind(IntEnum):
    """What a record says of its request."""

    STARTED = 1
    FINISHED = 2
    NOTE = 3
    # Only in `.gone` files: what its segment says, up to the position in the payload, of this key and of those that
    # follow the position, is settled.
    FORGOTTEN = 4


_KINDS = tuple(bytes((kind,)) for kind in range(max(Kind) + 1))


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the journal; `key` is the request's UUID, 16 bytes."""

    kind: Kind
    key: bytes
    payload: bytes


def encode(kind: Kind, key: bytes, payload: bytes) -> bytes:
    """The record's bytes on disk."""
    if len(key) != KEY_BYTES or len(payload) > MAX_RECORD_BYTES:
        raise ValueError("a record has a key of 16 bytes and at most 1 MiB of payload")
    body = _KINDS[kind] + key + payload
    return _HEAD.pack(len(body), zlib.crc32(body)) + body


def encode_gone(keys: Iterable[bytes], *, before: int) -> bytes:
    """The tombstones of these keys: their records that begin before this position are settled."""
    all_keys, position = list(keys), _POSITION.pack(before)
    some = (all_keys[at : at + _GONE_AT_ONCE] for at in range(0, len(all_keys), _GONE_AT_ONCE))
    return b"".join(encode(Kind.FORGOTTEN, k[0], position + b"".join(k[1:])) for k in some)


def read_gone(path: Path) -> dict[bytes, int]:
    """The position before which each key's records are settled."""
    gone: dict[bytes, int] = {}
    for _, record in read(path):
        keys = record.key + record.payload[_POSITION.size :]
        (before,) = _POSITION.unpack_from(record.payload)
        gone |= {keys[at : at + KEY_BYTES]: before for at in range(0, len(keys), KEY_BYTES)}
    return gone


def read(path: Path) -> Iterator[tuple[int, Record]]:
    """Each whole record of a file and where it begins, up to the first that is not whole."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return
    position = 0
    while position + _HEAD.size <= len(data):
        length, checksum = _HEAD.unpack_from(data, position)
        body = data[position + _HEAD.size : position + _HEAD.size + length]
        if length <= KEY_BYTES or len(body) < length or zlib.crc32(body) != checksum:
            return
        yield position, Record(kind=Kind(body[0]), key=body[1 : 1 + KEY_BYTES], payload=body[1 + KEY_BYTES :])
        position += _HEAD.size + length


def write_all(descriptor: int, data: bytes, *, at: int) -> None:
    """Writes it whole at this position, or leaves nothing of it."""
    end, rest = at, data
    try:
        while (count := os.pwrite(descriptor, rest, end)) < len(rest):
            end += count
            rest = rest[count:]
    except OSError:
        os.ftruncate(descriptor, at)  # or a crash now would bring back what the caller was told is not there
        raise


def sync_files(descriptors: list[int], folder: Path) -> None:
    for descriptor in descriptors:
        _fdatasync(descriptor)
    if len(descriptors) > 1:  # a new segment has begun since the last sync
        sync_folder(folder)


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def take_lock(path: Path) -> int | None:
    """The lock's descriptor; None when its owner lives, or when it was deleted as we took it."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), path.stat()):
            return descriptor
    except OSError:
        pass
    os.close(descriptor)
    return None


def unlink_segment(folder: Path, number: int) -> None:
    # The tombstones go last: a segment without them would be told again.
    (folder / f"{number}.spool").unlink(missing_ok=True)
    (folder / f"{number}.gone").unlink(missing_ok=True)
