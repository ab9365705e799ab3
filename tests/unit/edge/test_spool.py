"""The spool on a real disk, with the crashes it is made for."""

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.edge.spool import spool as spool_module
from services.edge.spool import spool_files
from services.edge.spool.spool import Kind, Record, Spool, SpoolFull, former
from services.edge.spool.spool_files import encode

KEYS = [uuid.UUID(int=number).bytes for number in range(1, 6)]


def record(number: int = 1, kind: Kind = Kind.STARTED, payload: bytes = b"draft") -> Record:
    return Record(kind=kind, key=uuid.UUID(int=number).bytes, payload=payload)


def append(spool: Spool, each: Record) -> None:
    spool.append(each.kind, each.key, each.payload)


def encoded(each: Record) -> bytes:
    return encode(each.kind, each.key, each.payload)


def opened(directory: Path, *, sync: str = "group", max_bytes: int = 1 << 30) -> tuple[Spool, uuid.UUID]:
    incarnation = uuid.uuid4()
    loop = asyncio.get_running_loop()
    return Spool.open(directory, incarnation=incarnation, sync=sync, max_bytes=max_bytes, loop=loop), incarnation


def found(directory: Path, pattern: str) -> list[Path]:
    return sorted(directory.glob(pattern))


def left_behind(directory: Path) -> list[Record]:
    records = []
    for left in former(directory, own=uuid.uuid4()):
        records.extend(left.records())
        left.close()
    return records


@contextmanager
def crashed(spool: Spool) -> Iterator[None]:
    """Lets go of everything as a dead process does, without a last write."""
    spool._closed = True
    spool._syncer.close()
    for descriptor in (spool._fd, *spool._retired, spool._lock):
        os.close(descriptor)
    yield


async def test_what_was_written_is_read_back_in_order(tmp_path: Path) -> None:
    """Everything appended before a death comes back, oldest first."""
    spool, _ = opened(tmp_path)
    records = [record(n, Kind.STARTED, b"x" * n) for n in range(1, 50)]
    for each in records:
        append(spool, each)
    last = record(3, Kind.FINISHED, b"end")
    append(spool, last)
    with crashed(spool):
        assert left_behind(tmp_path) == [*records, last]


async def test_a_living_incarnation_is_nobodys_to_replay(tmp_path: Path) -> None:
    """The lock hides a spool while its process lives, and shows it afterwards to one reader at a time."""
    spool, incarnation = opened(tmp_path)
    append(spool, record())
    assert list(former(tmp_path, own=uuid.uuid4())) == []
    with crashed(spool):
        (left,) = former(tmp_path, own=uuid.uuid4())
        assert left.incarnation == incarnation
        assert list(former(tmp_path, own=uuid.uuid4())) == []
        assert list(left.records()) == [record()]
        left.delete()
        assert found(tmp_path, "*") == []


async def test_a_record_is_in_the_file_when_append_returns(tmp_path: Path) -> None:
    """Nobody has to wait for a turn of the loop until what began, or ended, outlives the process."""
    spool, incarnation = opened(tmp_path)
    file = tmp_path / str(incarnation) / "1.spool"
    for number in range(1, 4):
        append(spool, record(number))
        assert file.stat().st_size == number * len(encoded(record()))
    spool.close()


@pytest.mark.parametrize("sync", ["group", "always"])
async def test_what_is_written_is_synced_soon_and_who_has_to_can_wait_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sync: str
) -> None:
    """Both the record that is waited for and the one that nobody waits for."""
    synced: list[int] = []
    plain = spool_module.sync_files
    monkeypatch.setattr(
        spool_module,
        "sync_files",
        lambda fds, folder: (plain(fds, folder), synced.append(os.fstat(fds[0]).st_size))[0],
    )
    spool, _ = opened(tmp_path, sync=sync)
    size = len(encoded(record()))
    for number in range(1, 4):
        append(spool, record(number))
        await spool.synced()
        assert synced[-1] == number * size
    append(spool, record(4))
    deadline = asyncio.get_running_loop().time() + 30
    while synced[-1] < 4 * size:
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.001)
    spool.close()


async def test_many_waiters_share_their_syncs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred concurrent requests with `always` all return, in far fewer syncs than requests."""
    syncs: list[int] = []

    def slow(descriptors: list[int], _: Path) -> None:
        syncs.append(len(descriptors))
        time.sleep(0.01)

    monkeypatch.setattr(spool_module, "sync_files", slow)
    spool, _ = opened(tmp_path, sync="always")

    async def one(number: int) -> None:
        await asyncio.sleep(0.0001 * number)
        append(spool, record(number))
        await spool.synced()

    await asyncio.wait_for(asyncio.gather(*(one(number) for number in range(1, 101))), 20)
    assert len(syncs) < 50
    spool.close()
    assert len(left_behind(tmp_path)) == 100


async def test_records_in_every_turn_keep_nobody_waiting(tmp_path: Path) -> None:
    """What is written when a sync begins is in it, however soon the next record comes."""
    spool, _ = opened(tmp_path, sync="always")

    async def one() -> None:
        append(spool, record(1))
        await spool.synced()

    waiting = asyncio.create_task(one())
    deadline = asyncio.get_running_loop().time() + 30
    while not waiting.done():
        assert asyncio.get_running_loop().time() < deadline
        append(spool, record(2))
        await asyncio.sleep(0)
    spool.close()


async def test_forgotten_segments_are_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Disk use follows what is unconfirmed: one long request keeps its own segment and no other."""
    monkeypatch.setattr(spool_module, "SEGMENT_BYTES", 1000)
    spool, _ = opened(tmp_path)
    append(spool, record(1, Kind.STARTED))
    for number in range(2, 200):
        append(spool, record(number, Kind.STARTED, b"x" * 50))
        append(spool, record(number, Kind.FINISHED, b"y" * 50))
        spool.forget([record(number).key])
    segments = found(tmp_path, "*/*.spool")
    assert len(segments) == 2
    assert spool.pending_bytes < 4000
    with crashed(spool):
        assert left_behind(tmp_path) == [record(1, Kind.STARTED)]


@pytest.mark.parametrize("at_once", [1, 2, 5])
async def test_however_many_are_forgotten_together_none_of_them_is_told_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    """Tombstones of many keys share records, and a key's later record is not under them."""
    monkeypatch.setattr(spool_files, "_GONE_AT_ONCE", at_once)
    spool, _ = opened(tmp_path)
    for number in range(1, 6):
        append(spool, record(number))
    spool.forget([record(number).key for number in range(1, 5)])
    append(spool, record(2, Kind.FINISHED))
    with crashed(spool):
        assert left_behind(tmp_path) == [record(5), record(2, Kind.FINISHED)]


async def test_a_spool_with_nothing_to_tell_removes_itself(tmp_path: Path) -> None:
    """An orderly end leaves no folder behind, unless something is unconfirmed."""
    spool, _ = opened(tmp_path)
    append(spool, record())
    spool.forget([record().key])
    spool.close()
    assert found(tmp_path, "*") == []
    kept, _ = opened(tmp_path)
    append(kept, record())
    kept.close()
    assert left_behind(tmp_path) == [record()]


async def test_a_full_spool_lets_requests_end_but_none_begin(tmp_path: Path) -> None:
    """At 90 % there is no room; at 100 % a start is refused and an end still written."""
    spool, _ = opened(tmp_path, max_bytes=1000)
    append(spool, record(1, Kind.STARTED, b"x" * 850))
    assert spool.has_room
    append(spool, record(2, Kind.STARTED, b"x" * 100))
    assert not spool.has_room
    with pytest.raises(SpoolFull):
        append(spool, record(3, Kind.STARTED))
    append(spool, record(1, Kind.FINISHED, b"end"))
    spool.close()
    assert [each.kind for each in left_behind(tmp_path)] == [Kind.STARTED, Kind.STARTED, Kind.FINISHED]


async def test_a_failing_disk_raises_and_heals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed write raises, takes the room away and leaves nothing of its record; the next one finds the disk well."""
    spool, _ = opened(tmp_path)
    plain = os.pwrite
    broken = True

    def pwrite(descriptor: int, data: bytes, position: int) -> int:
        if not broken:
            return plain(descriptor, data, position)
        plain(descriptor, bytes(data)[:5], position)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", pwrite)
    for number in range(1, 3):
        with pytest.raises(OSError, match="No space"):
            append(spool, record(number))
        assert not spool.has_room
    assert all(path.stat().st_size == 0 for path in found(tmp_path, "*/*.spool"))
    broken = False
    append(spool, record(4))
    assert spool.has_room
    spool.close()
    assert left_behind(tmp_path) == [record(4)]


async def test_a_healed_disk_is_noticed_without_a_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unready edge sends nothing, so the spool itself finds out that it may go on."""
    monkeypatch.setattr(spool_module, "RETRY_S", 0.01)
    spool, _ = opened(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", lambda *_: (_ for _ in ()).throw(OSError(5, "Input/output error")))
        with pytest.raises(OSError, match="Input/output"):
            append(spool, record(1))
        assert not spool.has_room
    deadline = asyncio.get_running_loop().time() + 30
    while not spool.has_room:
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.005)
    spool.close()


async def test_a_full_disk_leaves_no_room_until_a_write_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Time alone gives no room back: else every second a request would be let in, and readiness flap."""
    monkeypatch.setattr(spool_module, "RETRY_S", 0.005)
    spool, incarnation = opened(tmp_path)
    file = tmp_path / str(incarnation) / "1.spool"
    append(spool, record(1))
    tries: list[int] = []
    with monkeypatch.context() as patch:

        def pwrite(_descriptor: int, data: bytes, _position: int) -> int:
            tries.append(len(data))
            raise OSError(28, "No space left on device")

        patch.setattr(os, "pwrite", pwrite)
        with pytest.raises(OSError, match="No space"):
            append(spool, record(2))
        deadline = asyncio.get_running_loop().time() + 30
        while len(tries) < 4:
            assert not spool.has_room
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.001)
        assert not spool.has_room
    deadline = asyncio.get_running_loop().time() + 30
    while not spool.has_room:
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.001)
    assert file.stat().st_size == spool.pending_bytes == len(encoded(record(1)))
    append(spool, record(3))
    spool.close()
    assert left_behind(tmp_path) == [record(1), record(3)]


async def test_a_failed_sync_is_final(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a sync failed nobody knows what the disk holds, so nothing more is promised."""
    spool, _ = opened(tmp_path, sync="always")
    with monkeypatch.context() as patch:
        patch.setattr(spool_files, "_fdatasync", lambda _: (_ for _ in ()).throw(OSError(5, "Input/output error")))
        append(spool, record(1))
        with pytest.raises(OSError, match="Input/output"):
            await spool.synced()
    with pytest.raises(OSError, match="earlier sync"):
        append(spool, record(2))
    assert not spool.has_room
    spool.close()


async def test_sigkill_at_any_instant_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    """A process killed in the middle of its appends has told us of no record that does not come back."""
    script = (
        "import asyncio,sys,uuid\nfrom pathlib import Path\nfrom services.edge.spool.spool import *\n"
        "async def main():\n"
        f"  s=Spool.open(Path({str(tmp_path)!r}),incarnation=uuid.uuid4(),sync='group',max_bytes=1<<30,"
        "loop=asyncio.get_running_loop())\n"
        "  n=0\n"
        "  while True:\n"
        "    n+=1\n"
        "    s.append(Kind.STARTED,uuid.UUID(int=n).bytes,b'p'*(n%300))\n"
        "    await asyncio.sleep(0)\n"
        "    sys.stdout.write(f'{n}\\n'); sys.stdout.flush()\n"
        "asyncio.run(main())\n"
    )
    process = await asyncio.to_thread(subprocess.Popen, [sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert process.stdout is not None
    lines = [await asyncio.to_thread(process.stdout.readline) for _ in range(300)]
    process.send_signal(signal.SIGKILL)
    lines += await asyncio.to_thread(process.stdout.readlines)
    process.wait(10)
    process.stdout.close()
    acknowledged = int([line for line in lines if line.endswith(b"\n")][-1])
    keys = [uuid.UUID(bytes=each.key).int for each in left_behind(tmp_path)]
    assert keys[:acknowledged] == list(range(1, acknowledged + 1))


@dataclass
class Model:
    """What a spool should bring back: each record with its segment and where it ends there."""

    kept: list[tuple[int, int, Record]] = field(default_factory=list)


appends = st.tuples(
    st.just("append"),
    st.sampled_from([Kind.STARTED, Kind.FINISHED, Kind.NOTE]),
    st.sampled_from(KEYS),
    st.binary(max_size=60),
)
forgets = st.tuples(st.just("forget"), st.lists(st.sampled_from(KEYS), max_size=3))
turns = st.tuples(st.just("turn"))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.one_of(appends, appends, forgets, turns), max_size=40), cut=st.integers(0, 200))
def test_any_history_and_any_torn_tail_replay_exactly_the_unforgotten(
    steps: list[tuple[object, ...]], cut: int
) -> None:
    """Any interleaving of appends, forgets and a crash that tears the tail brings back what was written, no more."""
    before = spool_module.SEGMENT_BYTES
    spool_module.SEGMENT_BYTES = 150
    try:
        with tempfile.TemporaryDirectory() as folder:
            asyncio.run(_play(Path(folder), steps, cut))
    finally:
        spool_module.SEGMENT_BYTES = before


async def _play(directory: Path, steps: list[tuple[object, ...]], cut: int) -> None:
    spool, incarnation = opened(directory)
    model = Model()
    for name, *arguments in steps:
        if name == "turn":
            await asyncio.sleep(0)
        elif name == "forget":
            spool.forget(arguments[0])
            model.kept = [kept for kept in model.kept if kept[2].key not in arguments[0]]
        else:
            kind, key, payload = arguments
            each = Record(kind=kind, key=key, payload=payload)
            append(spool, each)
            model.kept.append((spool._active.number, spool._active.size, each))
    last, size = spool._active.number, max(0, spool._active.size - cut)
    with crashed(spool):
        path = directory / str(incarnation) / f"{last}.spool"
        os.truncate(path, size)
        expected = [each for number, end, each in model.kept if number != last or end <= size]
        assert left_behind(directory) == expected
