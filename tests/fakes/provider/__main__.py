"""`python -m tests.fakes.provider --port 0 --log FILE --ready FILE`: serves until SIGTERM or SIGINT."""

import argparse
import asyncio
import contextlib
import signal
from pathlib import Path

from tests.fakes.provider.log import ProviderLog
from tests.fakes.provider.server import serve


async def run(*, host: str, port: int, log: ProviderLog, ready: Path | None) -> None:
    """Ends the server on a signal."""
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await serve(host=host, port=port, log=log, ready=ready)


def main() -> None:
    """Reads the arguments and serves."""
    parser = argparse.ArgumentParser(prog="tests.fakes.provider")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--ready", type=Path)
    parser.add_argument("--unsynced", action="store_true", help="for speed: the log need not outlive the machine")
    given = parser.parse_args()
    log = ProviderLog(given.log, synced=not given.unsynced)
    asyncio.run(run(host=given.host, port=given.port, log=log, ready=given.ready))
    log.close()


if __name__ == "__main__":
    main()
