"""One supervised process: restarts with growing pauses, failures that are final, and an end whatever happens."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from cli.up.process import is_alive
from cli.up.supervised import LONGEST_PAUSE_S, Program, StartFailed, Supervised, next_pause_s


def program(folder: Path, script: str, *, is_ready=None, prepare=None) -> Program:
    """A program that runs `script`; ready as soon as it has written anything, unless told otherwise."""
    log = folder / "log"

    async def wrote() -> bool:
        return log.exists() and log.stat().st_size > 0

    return Program(
        name="test",
        replica=0,
        prepare=prepare or (lambda: [sys.executable, "-c", script]),
        environ=dict(os.environ),
        log_path=log,
        is_ready=is_ready or wrote,
    )


@pytest.fixture
def said() -> list[str]:
    """What was announced."""
    return []


async def test_a_dead_process_is_started_again_with_another_pid(tmp_path, said):
    """SIGKILL is answered by a new process, and everybody who keeps a list is told."""
    changes, changed_twice = [], asyncio.Event()

    def on_change() -> None:
        changes.append(1)
        if len(changes) == 2:
            changed_twice.set()

    supervised = Supervised(
        program=program(tmp_path, "import time; print(1, flush=True); time.sleep(60)"),
        on_change=on_change,
        announce=said.append,
    )
    running = asyncio.create_task(supervised.run())
    await supervised.wait_ready(timeout_s=10)
    first = supervised.pid
    os.kill(first, signal.SIGKILL)
    await asyncio.wait_for(changed_twice.wait(), 10)
    assert supervised.pid != first
    assert said == ["test-0 was ended by SIGKILL; started again"]
    await supervised.stop(patience_s=5, hurry=asyncio.Event())
    await running


async def test_who_was_asked_to_stop_is_asked_once(tmp_path, said):
    """When all is stopped while one already drains, that one ends as it would have."""
    script = """
import signal, time
asked = []
signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
print("ready", flush=True)
while not asked:
    time.sleep(0.01)
time.sleep(0.5)
print(f"asked {len(asked)} times", flush=True)
"""
    supervised = Supervised(program=program(tmp_path, script), on_change=lambda: None, announce=said.append)
    running = asyncio.create_task(supervised.run())
    await supervised.wait_ready(timeout_s=20)
    first = asyncio.create_task(supervised.stop(patience_s=600, hurry=asyncio.Event()))
    await asyncio.sleep(0.1)
    first.cancel()
    await supervised.stop(patience_s=20, hurry=asyncio.Event())
    await running
    assert (tmp_path / "log").read_text().split("\n")[1] == "asked 1 times"
    assert said == []


async def test_cancelling_leaves_no_process(tmp_path, said):
    """Whoever drops the task drops the process."""
    supervised = Supervised(
        program=program(tmp_path, "import time; print(1, flush=True); time.sleep(60)"),
        on_change=lambda: None,
        announce=said.append,
    )
    running = asyncio.create_task(supervised.run())
    await supervised.wait_ready(timeout_s=10)
    identity = supervised.identity
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert identity is not None
    assert not is_alive(identity)


async def test_wrong_settings_fail_the_start_at_once(tmp_path, said):
    """Exit status 2 means that trying again is of no use."""
    supervised = Supervised(
        program=program(tmp_path, "import sys; print('variable X is missing'); sys.exit(2)", is_ready=_never),
        on_change=lambda: None,
        announce=said.append,
    )
    running = asyncio.create_task(supervised.run())
    with pytest.raises(StartFailed, match="variable X is missing"):
        await supervised.wait_ready(timeout_s=10)
    await supervised.stop(patience_s=1, hurry=asyncio.Event())
    await running
    assert said == []


async def test_a_launcher_that_cannot_is_asked_once(tmp_path, said):
    """What this machine refuses at the first start, it refuses again: the reason is the error, without a log."""

    def prepare() -> list[str]:
        raise RuntimeError("no such server for this machine")

    supervised = Supervised(
        program=program(tmp_path, "", prepare=prepare), on_change=lambda: None, announce=said.append
    )
    running = asyncio.create_task(supervised.run())
    with pytest.raises(StartFailed, match=r"^no such server for this machine$"):
        await supervised.wait_ready(timeout_s=10)
    await running
    assert said == []


def test_pauses_are_none_then_grow_to_their_limit():
    """The first restart is immediate; a process that keeps dying is started every five seconds."""
    pauses = [0.0]
    for _ in range(8):
        pauses.append(next_pause_s(pauses[-1]))
    assert pauses == [0.0, 0.2, 0.4, 0.8, 1.6, 3.2, LONGEST_PAUSE_S, LONGEST_PAUSE_S, LONGEST_PAUSE_S]


async def _never() -> bool:
    return False
