"""One supervised process: started, watched, started again with growing pauses, and stopped.

Who owns what: `run` owns the process and is owned by the supervisor's task group; cancelling it kills the
process. The first restart is immediate, because most deaths are single; a process that keeps dying is started
every 5 s.
"""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cli.up.process import ProcessIdentity, identify, open_log

FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 5.0
STEADY_AFTER_S = 10.0
"""A process that lived this long starts its back-off anew."""

PROBE_EVERY_S = 0.03
DEATHS_BEFORE_FIRST_READY = 4
WRONG_SETTINGS = 2
"""The exit status of a service that can't run with what it was told: trying again is of no use."""

KILL_WAIT_S = 10.0


class StartFailed(Exception):
    """A process did not become ready; the message has its name and the end of its log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What to supervise."""

    name: str
    replica: int | None
    prepare: Callable[[], list[str]]
    """Blocks; returns the tethered command. Called before each start."""
    environ: Mapping[str, str]
    log_path: Path | None
    """None: it writes where its supervisor does."""
    is_ready: Callable[[], Awaitable[bool]]
    stop_signal: signal.Signals = signal.SIGTERM
    addresses: Mapping[str, str] = field(default_factory=dict)
    """What `ready.json` shows of it: http, grpc, metrics."""

    @property
    def label(self) -> str:
        """Its name among replicas."""
        return self.name if self.replica is None else f"{self.name}-{self.replica}"


class Supervised:
    """Keeps one program running until `stop`."""

    def __init__(self, *, program: Program, on_change: Callable[[], None], announce: Callable[[str], None]) -> None:
        self.program = program
        self.identity: ProcessIdentity | None = None
        self._on_change = on_change
        self._announce = announce
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()
        self._ended = asyncio.Event()
        self._deaths = 0
        self._was_ready = False
        self._impossible = ""

    @property
    def pid(self) -> int | None:
        """The pid of the process that runs now, or while it is being started again, of the last one."""
        return self._process.pid if self._process else None

    async def run(self) -> None:
        """Runs the program again and again until `stop`; ends the process when cancelled."""
        pause_s = 0.0
        try:
            while not self._stopping.is_set():
                began = time.monotonic()
                status = await self._run_once()
                if self._stopping.is_set():
                    return
                self._deaths += 1
                if status == WRONG_SETTINGS and not self._was_ready:
                    return
                if time.monotonic() - began > STEADY_AFTER_S:
                    pause_s = 0.0
                again = "started again" if pause_s == 0 else f"started again in {pause_s:g} s"
                self._announce(f"{self.program.label} {_ended_how(status)}; {again}")
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), pause_s)
                pause_s = next_pause_s(pause_s)
        finally:
            await self._kill()
            self._ended.set()

    async def wait_ready(self, *, timeout_s: float) -> None:
        """Returns when the program answers that it is ready. Raises StartFailed."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if self._impossible:
                raise StartFailed(self._impossible)
            if self._ended.is_set() or (self._deaths >= DEATHS_BEFORE_FIRST_READY and not self._was_ready):
                raise StartFailed(self._complaint("keeps ending"))
            if self.identity is not None and await self.program.is_ready():
                self._was_ready = True
                return
            await asyncio.sleep(PROBE_EVERY_S)
        raise StartFailed(self._complaint(f"is not ready after {timeout_s:g} s"))

    async def stop(self, *, patience_s: float, hurry: asyncio.Event, by: signal.Signals | None = None) -> None:
        """Asks it to stop, `by` another signal than usual, and waits; after `patience_s`, or at once when `hurry` is
        set, kills it. One that was asked already is only waited for: a second signal would cut its drain short."""
        was_asked = self._stopping.is_set()
        self._stopping.set()
        process = self._process
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                if not was_asked:
                    process.send_signal(by or self.program.stop_signal)
            await _first_of(self._ended.wait(), hurry.wait(), timeout_s=patience_s)
            if not self._ended.is_set():
                self._announce(f"{self.program.label} did not stop in time and is killed")
                await self._kill()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._ended.wait(), KILL_WAIT_S)

    async def _run_once(self) -> int:
        try:
            argv = await asyncio.to_thread(self.program.prepare)
        except Exception as error:  # noqa: BLE001  # a launcher's failure is a failed start like any other, and shown
            if self._was_ready:
                self._announce(f"{self.program.label}: {error}")
                return 1
            self._impossible = str(error)
            self._stopping.set()  # it has never run here, and asking again changes nothing
            return 1
        if self._stopping.is_set():
            return 0
        with contextlib.ExitStack() as opened:
            log = opened.enter_context(open_log(self.program.log_path)) if self.program.log_path else None
            # from the main thread: the kernel's tie is to the thread that starts a process, not to the whole process
            self._process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=dict(self.program.environ),
                start_new_session=True,
            )
        if self._stopping.is_set():  # asked to while it was being started
            self._process.send_signal(self.program.stop_signal)
        self.identity = identify(self._process.pid)
        self._on_change()
        status = await self._process.wait()
        self.identity = None
        return status

    async def _kill(self) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), KILL_WAIT_S)

    def _complaint(self, what: str) -> str:
        log = self.program.log_path
        shown = f" The end of {log}:\n{log_end(log)}" if log else ""
        return f"{self.program.label} {what}.{shown}"


def next_pause_s(pause_s: float) -> float:
    """How long to wait before the start after the one that waited `pause_s`."""
    return min(max(pause_s * 2, FIRST_PAUSE_S), LONGEST_PAUSE_S)


def log_end(path: Path, *, limit_bytes: int = 3000) -> str:
    """Returns the last lines of a log."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - limit_bytes))
            return file.read().decode(errors="replace").strip()
    except OSError:
        return "(no log)"


async def _first_of(*waits: Awaitable[object], timeout_s: float) -> None:
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


def _ended_how(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    with contextlib.suppress(ValueError):
        return f"was ended by {signal.Signals(-status).name}"
    return f"was ended by signal {-status}"
