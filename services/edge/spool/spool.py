"""The spool: a local journal that lets no request's end be forgotten before billing has it.

One folder per incarnation holds segments `N.spool` of at most 16 MiB, only ever appended to, beside each the keys that
may be forgotten, `N.gone`. A record is its length, its CRC-32, its kind, its key and its payload. Whatever instant the
process dies at, every record that was written is read back; a torn tail fails its CRC and is cut. A lock on the folder
is held while its process lives, so that nobody replays a living incarnation.

Written is not synced: a record survives the process once it is written, and the machine once it is synced, which
happens within 20 ms (`group`) or at once (`always`, where what begins waits for it). A tombstone is never synced;
losing one only means that billing is told again of what it knows.
"""

import asyncio
import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NoReturn
from uuid import UUID

from services.edge.spool.spool_files import (
    LOCK,
    Kind,
    Record,
    encode,
    encode_gone,
    read,
    read_gone,
    sync_files,
    sync_folder,
    take_lock,
    unlink_segment,
    write_all,
)
from services.edge.spool.spool_sync import Syncer

__all__ = ["FormerSpool", "Kind", "Record", "Spool", "SpoolFull", "former"]

SEGMENT_BYTES = 16 << 20
LEAST_SEGMENTS = 8
"""A small spool has smaller segments: only whole ones are deleted, and the one that is written to never is."""
SYNC_WITHIN_S = 0.02
ROOM_FRACTION = 0.9
RETRY_S = 1.0
_TRIAL = bytes(4096)
"""More than a record: room for one is not yet room for its end."""


class SpoolFull(OSError):
    """The spool has reached its `max_bytes`, so nothing more may start."""


@dataclass(slots=True, kw_only=True)
class _Segment:
    number: int
    size: int = 0
    gone_size: int = 0
    keys: set[bytes] = field(default_factory=set)  # with records here that are not forgotten


class Spool:
    """This incarnation's journal, of one event loop, whose thread writes; it waits for no sync (`Syncer`).

    A disk that fails makes `append` and `synced` raise OSError and `has_room` false: after a failed write until one
    succeeds, for good after a failed sync, as nobody knows what the disk then holds.
    """

    def __init__(
        self, *, folder: Path, lock: int, always: bool, max_bytes: int, loop: asyncio.AbstractEventLoop, syncer: Syncer
    ) -> None:
        self._folder = folder
        self._lock = lock
        self.always = always
        """Whether what begins has to wait until it is synced."""
        self._max_bytes = max_bytes
        self._segment_bytes = min(SEGMENT_BYTES, max_bytes // LEAST_SEGMENTS)
        self._loop = loop
        self._closed = False
        self._failed = False
        self._trial: asyncio.TimerHandle | None = None
        self._sync_failure: OSError | None = None
        self._sync_due: asyncio.TimerHandle | None = None
        self._syncing = False
        self._unsynced = False
        self._waiters: list[asyncio.Future[None]] = []  # for a sync
        self._retired: list[int] = []  # descriptors of full segments, closed after their last sync
        self._syncer = syncer
        self._segments: dict[int, _Segment] = {}
        self._bytes = 0
        self._active, self._fd = self._new_segment(1)

    @classmethod
    def open(
        cls,
        directory: Path,
        *,
        incarnation: UUID,
        sync: Literal["group", "always"],
        max_bytes: int,
        loop: asyncio.AbstractEventLoop,
        syncer: type[Syncer] = Syncer,
    ) -> "Spool":
        """Makes the incarnation's folder below `directory`, locked before anybody can see it. Raises OSError."""
        folder = directory / str(incarnation)
        newborn = directory / f".new-{incarnation}"
        newborn.mkdir(parents=True)
        lock = os.open(newborn / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        newborn.rename(folder)
        sync_folder(directory)
        own = syncer(loop=loop)
        spool = cls(folder=folder, lock=lock, always=sync == "always", max_bytes=max_bytes, loop=loop, syncer=own)
        sync_folder(folder)
        return spool

    @property
    def pending_bytes(self) -> int:
        """Bytes on disk."""
        return self._bytes

    @property
    def has_room(self) -> bool:
        """False from 90 % of `max_bytes` on, and while the disk fails: take no new requests."""
        return not self._failed and self._sync_failure is None and self._bytes < self._max_bytes * ROOM_FRACTION

    def append(self, kind: Kind, key: bytes, payload: bytes) -> None:
        """Writes the record before it returns; when it raises OSError, the record is not there.

        At once, since to gather a turn's records costs each of them a turn more, which is dearer than a write.
        Raises SpoolFull for what starts beyond `max_bytes`: what has started may always end.
        """
        if self._sync_failure is not None:
            self._refuse(self._sync_failure)
        if self._bytes >= self._max_bytes and kind is Kind.STARTED:
            raise SpoolFull("the spool is full")
        data = encode(kind, key, payload)
        try:
            if self._active.size >= self._segment_bytes:
                self._roll()
            segment = self._active
            write_all(self._fd, data, at=segment.size)
        except OSError:
            self._look_again()
            raise
        self._failed = False
        segment.size += len(data)
        segment.keys.add(key)
        self._bytes += len(data)
        self._unsynced = True
        if self._sync_due is None:
            self._plan_sync()

    async def synced(self) -> None:
        """Returns when all that was appended so far is synced. Raises OSError."""
        if self._sync_failure is not None:
            self._refuse(self._sync_failure)
        if not (self._unsynced or self._syncing):
            return
        done: asyncio.Future[None] = self._loop.create_future()
        self._waiters.append(done)
        await done

    def forget(self, keys: Iterable[bytes]) -> None:
        """Settles all that was appended so far for these keys; unknown keys are ignored.

        Raises OSError: what is not settled then still counts, and can be forgotten again.
        """
        settled = set(keys)
        # Oldest first: of a request that is forgotten by half, the end is left, never a beginning without an end.
        for segment in list(self._segments.values()):
            if gone := settled & segment.keys:
                self._forget_in(segment, gone)

    def close(self) -> None:
        """Syncs the rest and gives the lock back; a spool with nothing to tell removes itself."""
        self._closed = True
        try:
            self._syncer.close()
            sync_files([self._fd, *self._retired], self._folder)
        finally:
            for descriptor in (self._fd, *self._retired):
                os.close(descriptor)
            _settle(self._waiters, None)
            if not any(segment.keys for segment in self._segments.values()):
                shutil.rmtree(self._folder, ignore_errors=True)
            os.close(self._lock)

    @staticmethod
    def _refuse(failure: OSError) -> NoReturn:
        raise OSError(failure.errno, "an earlier sync of the spool failed") from failure

    def _look_again(self) -> None:
        """After a failed write there is no room until one succeeds: a record's, or the trial of each second."""
        self._failed = True
        if self._trial is None:
            self._trial = self._loop.call_later(RETRY_S, self._try_disk)

    def _try_disk(self) -> None:
        """Writes what no reader takes for a record, and takes it away again."""
        self._trial = None
        if self._closed or not self._failed:
            return
        try:
            write_all(self._fd, _TRIAL, at=self._active.size)
            os.ftruncate(self._fd, self._active.size)
        except OSError:
            self._look_again()
        else:
            self._failed = False

    def _plan_sync(self) -> None:
        if self._syncing or self._sync_due is not None or self._closed:
            return
        delay_s = 0.0 if self.always else SYNC_WITHIN_S
        self._sync_due = self._loop.call_later(delay_s, self._start_sync)

    def _start_sync(self) -> None:
        self._sync_due = None
        if self._closed:
            return
        self._syncing = True
        self._unsynced = False
        covered, self._waiters = self._waiters, []
        retired, self._retired = self._retired, []
        descriptors = [self._fd, *retired]
        self._syncer.submit(
            descriptors, lambda: sync_files(descriptors, self._folder), lambda e: self._synced(e, covered, retired)
        )

    def _synced(self, error: OSError | None, covered: list["asyncio.Future[None]"], retired: list[int]) -> None:
        self._syncing = False
        for descriptor in retired:
            os.close(descriptor)
        _settle(covered, error)
        if error is not None:
            self._sync_failure = error
            _settle(self._waiters, error)
        elif self._unsynced:
            self._plan_sync()
        else:
            _settle(self._waiters, None)

    def _new_segment(self, number: int) -> tuple[_Segment, int]:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(self._folder / f"{number}.spool", flags, 0o600)
        segment = _Segment(number=number)
        self._segments[number] = segment
        return segment, descriptor

    def _roll(self) -> None:
        full, full_fd = self._active, self._fd
        self._active, self._fd = self._new_segment(full.number + 1)
        self._retired.append(full_fd)
        if not full.keys:
            self._delete(full)

    def _forget_in(self, segment: _Segment, keys: set[bytes]) -> None:
        if len(segment.keys) == len(keys) and segment is not self._active:
            self._delete(segment)
        else:
            self._bury(segment, encode_gone(keys, before=segment.size))
        segment.keys -= keys

    def _bury(self, segment: _Segment, tombstones: bytes) -> None:
        path = self._folder / f"{segment.number}.gone"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            write_all(descriptor, tombstones, at=segment.gone_size)
        finally:
            os.close(descriptor)
        segment.gone_size += len(tombstones)
        self._bytes += len(tombstones)

    def _delete(self, segment: _Segment) -> None:
        unlink_segment(self._folder, segment.number)
        del self._segments[segment.number]
        self._bytes -= segment.size + segment.gone_size


class FormerSpool:
    """What an incarnation that is no more left behind; locked against every other reader until deleted or closed."""

    def __init__(self, *, folder: Path, incarnation: UUID, lock: int) -> None:
        self.incarnation = incarnation
        self._folder = folder
        self._lock: int | None = lock

    def records(self) -> Iterator[Record]:
        """All records that were written and not forgotten, oldest first. Each segment ends at its torn tail."""
        numbers = sorted(int(path.stem) for path in self._folder.glob("*.spool") if path.stem.isdecimal())
        for number in numbers:
            gone = read_gone(self._folder / f"{number}.gone")
            for position, record in read(self._folder / f"{number}.spool"):
                if position >= gone.get(record.key, 0):
                    yield record

    def delete(self) -> None:
        """Removes it for good; do so when everything in it is where it belongs."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self.close()

    def close(self) -> None:
        """Gives it back for another to find."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def former(directory: Path, *, own: UUID) -> Iterator[FormerSpool]:
    """Each incarnation in `directory` but `own` whose process is gone, locked for the caller."""
    for folder in sorted(directory.iterdir()) if directory.is_dir() else ():
        try:
            incarnation = UUID(folder.name)
        except ValueError:
            continue
        lock = None if incarnation == own else take_lock(folder / LOCK)
        if lock is not None:
            yield FormerSpool(folder=folder, incarnation=incarnation, lock=lock)


def _settle(waiters: list["asyncio.Future[None]"], error: BaseException | None) -> None:
    for waiter in (each for each in waiters if not each.done()):
        if error is None:
            waiter.set_result(None)
        else:
            waiter.set_exception(error)
    waiters.clear()
