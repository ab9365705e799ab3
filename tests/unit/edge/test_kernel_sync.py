"""The spool's syncs by the kernel, and by a thread where the kernel will not."""

import asyncio
import contextlib
import errno
import os
import struct
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from services.edge.spool import kernel_sync
from services.edge.spool.kernel_sync import KernelSyncer
from services.edge.spool.spool import Kind, Spool


@contextlib.asynccontextmanager
async def syncing(told: "asyncio.Queue[OSError | None]") -> AsyncIterator[KernelSyncer]:
    syncer = KernelSyncer(loop=asyncio.get_running_loop())
    async with asyncio.timeout(30):
        yield syncer
    syncer.close()


@pytest.mark.parametrize("calls", [None, {}, {os.uname().machine: (100_000,) * 4}])
async def test_every_sync_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: object):
    """By the kernel, or by the thread where the kernel has no such calls, or lets us have none."""
    if calls is not None:
        monkeypatch.setattr(kernel_sync, "_CALLS", calls)
    told: asyncio.Queue[OSError | None] = asyncio.Queue()
    by_thread: list[int] = []
    with (tmp_path / "a").open("wb") as file:
        async with syncing(told) as syncer:
            for _ in range(3):
                syncer.submit([file.fileno()], lambda: by_thread.append(1), told.put_nowait)
                assert await told.get() is None
            assert calls is None or len(by_thread) == 3
            syncer.submit([file.fileno(), file.fileno()], lambda: by_thread.append(2), told.put_nowait)
            assert await told.get() is None
            assert by_thread[-1] == 2


async def test_a_sync_that_fails_is_told_with_its_reason():
    """A file that can't be synced stands in for a disk that fails."""
    told: asyncio.Queue[OSError | None] = asyncio.Queue()
    reader, writer = os.pipe()
    async with syncing(told) as syncer:
        syncer.submit([writer], lambda: os.fsync(writer), told.put_nowait)
        assert isinstance(await told.get(), OSError)
    os.close(reader)
    os.close(writer)


async def test_who_closes_waits_for_the_sync_that_runs(tmp_path: Path):
    """And it is told to whoever waits for it: nobody else ever would be."""
    told: asyncio.Queue[OSError | None] = asyncio.Queue()
    with (tmp_path / "a").open("wb") as file:
        file.write(bytes(1 << 20))
        async with syncing(told) as syncer:
            syncer.submit([file.fileno()], lambda: None, told.put_nowait)
    async with asyncio.timeout(30):
        assert await told.get() is None


@pytest.mark.parametrize(("answers", "code"), [(1, errno.EIO), (0, 0), (-1, 0)])
async def test_a_disk_that_fails_and_a_kernel_that_says_nothing_are_failures(tmp_path: Path, answers: int, code: int):
    """What the kernel said of an earlier sync is not its word on this one."""
    told: asyncio.Queue[OSError | None] = asyncio.Queue()
    with (tmp_path / "a").open("wb") as file:
        async with syncing(told) as syncer:
            if syncer._kernel is None:
                pytest.skip("this machine's kernel has no such calls")
            call, get = syncer._kernel._call, syncer._kernel._get

            def failing(number: int, *given: Any) -> int:
                if number != get:
                    return int(call(number, *given))
                call(number, *given)
                given[3].raw = struct.pack("=QQqq", 0, 0, -code, 0)
                return answers

            syncer._kernel._call = failing
            syncer.submit([file.fileno()], lambda: None, told.put_nowait)
            failure = await told.get()
            assert isinstance(failure, OSError)
            assert failure.errno == errno.EIO


async def test_a_spool_that_the_kernel_syncs_keeps_nobody_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With `always`, over many syncs and segments."""
    monkeypatch.setattr("services.edge.spool.spool.SEGMENT_BYTES", 500)
    loop = asyncio.get_running_loop()
    spool = Spool.open(
        tmp_path, incarnation=uuid.uuid4(), sync="always", max_bytes=1 << 20, loop=loop, syncer=KernelSyncer
    )
    async with asyncio.timeout(30):
        for number in range(1, 31):
            spool.append(Kind.STARTED, uuid.UUID(int=number).bytes, b"draft")
            await spool.synced()
    assert len(spool._segments) > 1
    spool.close()
