"""Keeps the logs of a running instance bounded: a long one is copied aside, then cut.

The processes append to their logs themselves, so cutting the file is enough; lines written during the copy
may be lost, which a log of one machine can bear.
"""

import asyncio
import os
import shutil
from pathlib import Path

MAX_BYTES = 32 * 1024**2
EVERY_S = 30.0


async def trim_for_ever(directory: Path) -> None:
    """Looks after the logs in `directory` until cancelled; owned by the instance."""
    while True:
        await asyncio.to_thread(trim, directory)
        await asyncio.sleep(EVERY_S)


def trim(directory: Path) -> None:
    """Moves what is longer than it may be to `<name>.1`, replacing the former one."""
    for log in directory.glob("*.log"):
        if log.stat().st_size <= MAX_BYTES:
            continue
        shutil.copyfile(log, log.with_name(f"{log.name}.1"))
        os.truncate(log, 0)
