"""`serve edge --workers N`: N edge processes that share one port, for a container with several cores.

The kernel spreads connections over them. Each is a replica of its own (`0-0`, `0-1`, …) with a metrics port of its own:
the given one, the next, and so on. A dead worker is started again; the first signal drains all, a second one hurries.
"""

import asyncio
import signal
import sys
from collections.abc import Mapping

from cli.up.probe import http_is_ready
from cli.up.process import SAFE_PATH, tethered
from cli.up.supervised import Program, Supervised

PATIENCE_MARGIN_S = 10.0
DEFAULT_METRICS_BIND = "127.0.0.1:0"


def run_workers(count: int, environ: Mapping[str, str]) -> int:
    """Runs `count` workers until a signal; returns the exit status."""
    asyncio.run(_run(count, environ))
    return 0


def worker_environ(environ: Mapping[str, str], number: int) -> dict[str, str]:
    """What worker `number` is told."""
    host, _, port = environ.get("TOLLBRIDGE_METRICS_BIND", DEFAULT_METRICS_BIND).rpartition(":")
    metrics_port = int(port) + number if int(port) else 0
    return {
        **environ,
        "TOLLBRIDGE_REPLICA": f"{environ.get('TOLLBRIDGE_REPLICA', '0')}-{number}",
        "TOLLBRIDGE_HTTP_REUSE_PORT": "true",
        "TOLLBRIDGE_METRICS_BIND": f"{host}:{metrics_port}",
    }


async def _run(count: int, environ: Mapping[str, str]) -> None:
    stop, hurry = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        (hurry if stop.is_set() else stop).set()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, on_signal)
    workers = [
        Supervised(program=_program(number, environ), on_change=_nothing, announce=_announce) for number in range(count)
    ]
    tasks = [asyncio.create_task(worker.run()) for worker in workers]
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait((stopping, *tasks), return_when=asyncio.FIRST_COMPLETED)
    patience_s = float(environ.get("TOLLBRIDGE_DRAIN_GRACE_S", "30")) + PATIENCE_MARGIN_S
    await asyncio.gather(*(worker.stop(patience_s=patience_s, hurry=hurry) for worker in workers))
    await asyncio.gather(*tasks, return_exceptions=True)
    stopping.cancel()


def _program(number: int, environ: Mapping[str, str]) -> Program:
    own = worker_environ(environ, number)

    def prepare() -> list[str]:
        return tethered([sys.executable, *SAFE_PATH, "-m", "services.edge"], death_signal=signal.SIGTERM)

    async def is_ready() -> bool:
        return await http_is_ready(own.get("TOLLBRIDGE_HTTP_BIND", ""))

    return Program(name="edge", replica=number, prepare=prepare, environ=own, log_path=None, is_ready=is_ready)


def _announce(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _nothing() -> None:
    """Nobody keeps a list of workers."""
