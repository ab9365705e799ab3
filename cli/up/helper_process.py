"""Short-lived helpers of the supervisor, each a process of its own.

So the supervisor itself never imports gRPC, SQLAlchemy or the services: it stays small, and it only ever
starts processes by exec.
"""

import asyncio
import contextlib
import signal
import sys
from collections.abc import Mapping

from cli.up.process import SAFE_PATH, tethered


class HelperFailed(Exception):
    """A helper ended with an error; the message is what it said."""


async def run_helper(module: str, *arguments: str, environ: Mapping[str, str], timeout_s: float) -> str:
    """Runs `python -m module …` and returns its output. Raises HelperFailed; kills it when cancelled or too late."""
    argv = tethered([sys.executable, *SAFE_PATH, "-m", module, *arguments], death_signal=signal.SIGKILL)
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=dict(environ),
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(timeout_s):
            output, complaint = await process.communicate()
    except TimeoutError as error:
        raise HelperFailed(f"{module} {' '.join(arguments)} took longer than {timeout_s:g} s") from error
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    if process.returncode != 0:
        raise HelperFailed((complaint or output).decode(errors="replace").strip()[-4000:])
    return output.decode(errors="replace")
