"""A job's time, which may run out while its worker stands still.

The answer may have come meanwhile: our provider has been paid for it, and its customer may have it. So who wakes to a
deadline that has passed looks once more before he judges. For stops of less than half a second, and for one that begins
within that last look, the deadline is the deadline.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

LATE_S = 0.5
LAST_LOOK_S = 10.0
"""Long enough to ask a provider once more, which is done every 5 s, and to fetch what it has made."""


@asynccontextmanager
async def time_left(seconds: float) -> AsyncIterator[None]:
    """As asyncio.timeout; it lasts a little longer where nobody was awake as it ended."""
    loop = asyncio.get_running_loop()
    over_s = loop.time() + seconds
    async with asyncio.timeout(None) as limit:

        def judge() -> None:
            now_s = loop.time()
            limit.reschedule(now_s + LAST_LOOK_S if now_s - over_s > LATE_S else now_s)

        timer = loop.call_at(over_s, judge)
        try:
            yield
        finally:
            timer.cancel()
