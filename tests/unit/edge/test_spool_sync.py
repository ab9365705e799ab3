"""The thread that syncs outlives whatever a sync raises."""

import asyncio

from services.edge.spool.spool_sync import Syncer


async def test_whatever_a_sync_raises_is_told_and_the_next_one_runs() -> None:
    """Else whoever waits for the disk would wait for ever."""
    loop = asyncio.get_running_loop()
    syncer = Syncer(loop=loop)
    told: asyncio.Queue[OSError | None] = asyncio.Queue()

    def broken() -> None:
        raise ValueError("no such descriptor")

    async with asyncio.timeout(30):
        syncer.submit([0], broken, told.put_nowait)
        assert isinstance(await told.get(), OSError)
        syncer.submit([0], lambda: None, told.put_nowait)
        assert await told.get() is None
    syncer.close()
