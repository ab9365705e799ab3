"""`serve edge --workers N`: N edge processes that share one port, for a container with several cores.

The kernel spreads connections over them. Each is a replica of its own (`0-0`, `0-1`, …) with a metrics port of its own:
the given one, the next, and so on. One that can't be started stops all, with status 1, so that nobody takes half a
replica for a whole one; one that dies later is started again, with growing pauses. The first signal drains all, a
second one hurries. Workers write their logs where we do.
"""

import asyncio
import math
import signal
import sys
from collections.abc import Iterator, Mapping

from chassis.settings import ServiceSettings, load
from cli.up.ports import pick_ports
from cli.up.probe import http_is_ready
from cli.up.process import SAFE_PATH, tethered
from cli.up.supervised import Program, StartFailed, Supervised
from services.edge.settings import Settings

PATIENCE_MARGIN_S = 10.0
FAILED = 1


def run_workers(count: int, environ: Mapping[str, str]) -> int:
    """Runs `count` workers until a signal; returns the exit status. Raises SettingsError."""
    settings = load(Settings, environ)
    patience_s = settings.drain_announce_s + settings.drain_grace_s + PATIENCE_MARGIN_S
    return asyncio.run(_run(list(worker_environs(count, environ, settings)), patience_s))


def worker_environs(count: int, environ: Mapping[str, str], settings: ServiceSettings) -> Iterator[dict[str, str]]:
    """What each worker is told. Without a metrics port each is given a free one, by which we ask it how it is."""
    host, _, port = settings.metrics_bind.rpartition(":")
    ports = range(int(port), int(port) + count) if int(port) else pick_ports(count, host=host.strip("[]"))
    for number, metrics_port in enumerate(ports):
        yield {
            **environ,
            "TOLLBRIDGE_REPLICA": f"{settings.replica}-{number}",
            "TOLLBRIDGE_HTTP_REUSE_PORT": "true",
            "TOLLBRIDGE_METRICS_BIND": f"{host}:{metrics_port}",
        }


async def _run(environs: list[dict[str, str]], patience_s: float) -> int:
    stop, hurry = asyncio.Event(), asyncio.Event()
    asked = signal.SIGTERM

    def on_signal(number: signal.Signals) -> None:
        nonlocal asked
        if not stop.is_set():
            asked = number
        (hurry if stop.is_set() else stop).set()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, on_signal, number)
    workers = [
        Supervised(program=_program(number, environ), on_change=_nothing, announce=_announce)
        for number, environ in enumerate(environs)
    ]
    running = [asyncio.create_task(worker.run()) for worker in workers]
    stopping = asyncio.create_task(stop.wait())
    # A worker may wait for the other services as long as they need; that it keeps ending is a failed start.
    starting = asyncio.gather(*(worker.wait_ready(timeout_s=math.inf) for worker in workers))
    await asyncio.wait((stopping, starting), return_when=asyncio.FIRST_COMPLETED)
    status = _start_failure(starting)
    if status == 0:  # from here on `run` ends only when asked to, or by a fault of its own
        await asyncio.wait((stopping, *running), return_when=asyncio.FIRST_COMPLETED)
    await asyncio.gather(*(worker.stop(patience_s=patience_s, hurry=hurry, by=asked) for worker in workers))
    faults = [each for each in await asyncio.gather(*running, return_exceptions=True) if each is not None]
    for fault in faults:
        _announce(f"a worker was lost: {fault!r}")
    starting.cancel()
    stopping.cancel()
    await asyncio.gather(starting, stopping, return_exceptions=True)
    return FAILED if faults else status


def _start_failure(starting: "asyncio.Future[list[None]]") -> int:
    """The exit status so far; says why when it isn't 0."""
    if not starting.done():
        return 0
    try:
        starting.result()
    except StartFailed as error:
        _announce(f"{error} All workers are stopped.")
        return FAILED
    return 0


def _program(number: int, environ: Mapping[str, str]) -> Program:
    def prepare() -> list[str]:
        return tethered([sys.executable, *SAFE_PATH, "-m", "services.edge"], death_signal=signal.SIGTERM)

    async def is_ready() -> bool:
        host, _, port = environ["TOLLBRIDGE_METRICS_BIND"].rpartition(":")
        reachable = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)
        return await http_is_ready(f"{reachable}:{port}")

    return Program(name="edge", replica=number, prepare=prepare, environ=environ, log_path=None, is_ready=is_ready)


def _announce(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _nothing() -> None:
    """Nobody keeps a list of workers."""
