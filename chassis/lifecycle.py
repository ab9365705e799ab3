"""How a process lives: uvloop, a raised file limit, signals that ask it to stop, and tasks that somebody owns.

The first SIGTERM or SIGINT sets `stopping`; a process that doesn't wait for it yet (it is still starting) is ended at
once. SIGTERM is for one of many, whose clients can go elsewhere and shall be told; SIGINT is for all at once, and
somebody waits. A second signal, or 60 seconds, cuts the drain short. Exit status: 0 stopped as asked, 1 something
failed, 2 the settings or the config file are wrong.
"""

import asyncio
import contextlib
import gc
import os
import resource
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Literal

import prometheus_client
import structlog
import uvloop

from chassis.config import ConfigError
from chassis.settings import ServiceSettings, SettingsError

DRAIN_LIMIT_S = 60.0
DRAIN_MARGIN_S = 30.0
"""What a process gets to put its things away after the grace for what runs."""
HASTY_GRACE_S = 30.0
"""The longest grace while somebody waits for the end."""
GC_THRESHOLDS = (10_000, 20, 50)
"""Python's own look for cycles so often that a tenth of a busy edge's time goes into it."""
TASK_END_LIMIT_S = 5.0


class Stopping(asyncio.Event):
    """Set when the process shall stop. Knows whether anybody has begun to wait for it."""

    awaited = False

    async def wait(self) -> Literal[True]:
        self.awaited = True
        return await super().wait()


class Lifecycle:
    """Owns the tasks of a process and knows when it shall stop.

    `drain_limit_s` is how long stopping may take; a process whose requests have a grace of their own sets it by that.
    """

    def __init__(self) -> None:
        self.stopping: asyncio.Event = Stopping()
        self.failed = False
        self.in_haste = False
        self.drain_limit_s = DRAIN_LIMIT_S
        self._tasks: list[asyncio.Task[None]] = []
        self._log = structlog.get_logger()

    def spawn(self, name: str, coroutine: Coroutine[object, object, None]) -> asyncio.Task[None]:
        """Runs a task that lasts as long as the process; it is cancelled at the end, the latest first.

        Its failure is logged and stops the process with status 1. That it ends well is allowed.
        """
        task = asyncio.create_task(coroutine, name=name)
        self._tasks.append(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task in self._tasks:
            self._tasks.remove(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        self._log.error("task_failed", task=task.get_name(), exc_info=error)
        self.failed = True
        self.stopping.set()

    def drain_times(self, settings: ServiceSettings) -> tuple[float, float]:
        """How long to announce the drain, and then to let run what runs, in seconds. Asked once `stopping` is set."""
        if self.in_haste:
            return 0.0, min(settings.drain_grace_s, HASTY_GRACE_S)
        return settings.drain_announce_s, settings.drain_grace_s

    async def end(self) -> None:
        """Cancels what was spawned, in reverse order, each with 5 seconds to clean up."""
        for task in reversed(list(self._tasks)):
            task.cancel()
            _, late = await asyncio.wait({task}, timeout=TASK_END_LIMIT_S)
            if late:
                self._log.error("task_did_not_end", task=task.get_name())


def run(main: Callable[[Lifecycle], Awaitable[None]]) -> None:
    """Runs `main` on uvloop until it returns; it should wait for `lifecycle.stopping`, then drain and return.

    Raises SystemExit with the status when it isn't 0.
    """
    _raise_file_limit()
    _calm_collector()
    # A time beside each counter would be a third more samples that nobody reads.
    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]  # the library has no types for it
    # Somebody else's task may survive its cancellation (a pool that connects does) and keep the loop from ending.
    exit_for_certain = threading.Timer(TASK_END_LIMIT_S, os._exit, (1,))
    exit_for_certain.daemon = True
    try:
        status = uvloop.run(_supervise(main, exit_for_certain))
    except (SettingsError, ConfigError) as error:
        sys.stderr.write(f"{error}\n")
        status = 2
    finally:
        exit_for_certain.cancel()
    if status:
        raise SystemExit(status)


def _calm_collector() -> None:
    """What is loaded now stays: it need not be walked over again; and a request's objects die without the collector.

    Not even once, for the little garbage in it: that look would take a tenth of a start. `services` turned it off.
    """
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    gc.enable()


async def _supervise(main: Callable[[Lifecycle], Awaitable[None]], exit_for_certain: threading.Timer) -> int:
    lifecycle = Lifecycle()
    loop = asyncio.get_running_loop()
    work = asyncio.ensure_future(main(lifecycle))

    signals = 0

    def on_signal(number: signal.Signals) -> None:
        nonlocal signals
        signals += 1
        lifecycle.in_haste |= number is signal.SIGINT
        lifecycle.stopping.set()
        if signals > 1 or not getattr(lifecycle.stopping, "awaited", True):
            work.cancel()

    limit = asyncio.create_task(_limit_the_drain(lifecycle, work))
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    try:
        await work
    except asyncio.CancelledError:
        if not lifecycle.stopping.is_set():
            raise
    except (SettingsError, ConfigError):
        raise
    except Exception:  # noqa: BLE001  the process's last line: logged here, shown by the status
        structlog.get_logger().exception("process_failed")
        lifecycle.failed = True
    finally:
        limit.cancel()
        await lifecycle.end()
        exit_for_certain.start()
    return int(lifecycle.failed)


async def _limit_the_drain(lifecycle: Lifecycle, work: "asyncio.Future[None]") -> None:
    """Cuts the drain short at its limit, whoever began it: a signal, or a task that failed."""
    await asyncio.Event.wait(lifecycle.stopping)  # not Stopping's own, which would say that main waits
    await asyncio.sleep(lifecycle.drain_limit_s)
    work.cancel()


def _raise_file_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return
    with contextlib.suppress(ValueError, OSError):  # macOS caps it below the hard limit: the soft one then stays
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
