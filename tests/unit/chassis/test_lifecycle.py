"""Real processes: how they start, are told to stop, fail and end."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

HEAD = """
import asyncio, os, resource, sys
from chassis import lifecycle

def say(text):
    print(text, flush=True)
"""


def start(tmp_path: Path, body: str, **environ: str) -> subprocess.Popen[str]:
    script = tmp_path / "process.py"
    script.write_text(HEAD + body)
    return subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environ},
    )


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def rest(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=30)
    return process.returncode, out, err


@pytest.mark.parametrize(("number", "times"), [(signal.SIGTERM, "(4.0, 600.0)"), (signal.SIGINT, "(0.0, 30.0)")])
def test_whoever_interrupts_a_process_waits_for_it(tmp_path: Path, number: int, times: str) -> None:
    """SIGTERM is announced and has the whole grace; SIGINT is not announced, and has 30 seconds at most."""
    process = start(
        tmp_path,
        """
from chassis.settings import ServiceSettings

async def main(life):
    say("ready")
    await asyncio.gather(life.stopping.wait())
    say(life.drain_times(ServiceSettings(drain_announce_s=4.0, drain_grace_s=600.0)))

lifecycle.run(main)
""",
    )
    assert line(process) == "ready"
    process.send_signal(number)
    status, out, err = rest(process)
    assert (status, out) == (0, f"{times}\n"), err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_main_drain_and_ends_tasks_in_reverse(tmp_path: Path, number: int) -> None:
    """Asked to stop, a process drains, ends its tasks the latest first, and exits with 0."""
    process = start(
        tmp_path,
        """
async def work(name):
    try:
        await asyncio.Event().wait()
    finally:
        say("ended " + name)

async def main(life):
    life.spawn("one", work("one"))
    life.spawn("two", work("two"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert soft == hard
    say("ready")
    await life.stopping.wait()
    say("drained")

lifecycle.run(main)
""",
    )
    assert line(process) == "ready"
    process.send_signal(number)
    status, out, err = rest(process)
    assert (status, out.split("\n")[:3]) == (0, ["drained", "ended two", "ended one"]), err


def test_a_failed_task_stops_the_process(tmp_path: Path) -> None:
    """No process lives on without a part of itself: it logs which one failed and exits with 1."""
    process = start(
        tmp_path,
        """
async def work():
    raise RuntimeError("broken")

async def main(life):
    life.spawn("consumer", work())
    await life.stopping.wait()

lifecycle.run(main)
""",
    )
    status, out, err = rest(process)
    assert status == 1
    assert "task_failed" in out + err
    assert "consumer" in out + err


def test_a_drain_that_a_failed_task_began_is_limited_too(tmp_path: Path) -> None:
    """A process that lost a part of itself ends in time, also when nobody sends it a signal."""
    process = start(
        tmp_path,
        """
async def work():
    raise RuntimeError("broken")

async def main(life):
    life.spawn("consumer", work())
    await life.stopping.wait()
    await asyncio.sleep(600)

lifecycle.DRAIN_LIMIT_S = 0.2
lifecycle.run(main)
""",
    )
    assert rest(process)[0] == 1


def test_a_process_says_how_long_its_drain_may_take(tmp_path: Path) -> None:
    """Whose requests may run for ten minutes is not cut after one."""
    process = start(
        tmp_path,
        """
async def main(life):
    life.drain_limit_s = 60
    say("up")
    await life.stopping.wait()
    await asyncio.sleep(0.5)
    say("drained")

lifecycle.DRAIN_LIMIT_S = 0.1
lifecycle.run(main)
""",
    )
    assert line(process) == "up"
    process.send_signal(signal.SIGTERM)
    status, out, _ = rest(process)
    assert (status, "drained" in out) == (0, True)


def test_the_first_signal_after_a_failure_lets_the_drain_go_on(tmp_path: Path) -> None:
    """Its supervisor asks for the stop that it has begun itself: that is no second request."""
    process = start(
        tmp_path,
        """
async def work():
    raise RuntimeError("broken")

async def main(life):
    life.spawn("consumer", work())
    await life.stopping.wait()
    say("draining")
    await asyncio.sleep(0.5)
    say("drained")

lifecycle.run(main)
""",
    )
    lines = []
    while "draining" not in lines:
        lines.append(line(process))
    process.send_signal(signal.SIGTERM)
    status, out, _ = rest(process)
    assert (status, out.strip()) == (1, "drained")


def test_a_signal_during_the_start_ends_it_at_once(tmp_path: Path) -> None:
    """A process that still waits for its schema doesn't make anybody wait for it."""
    process = start(
        tmp_path,
        """
async def main(life):
    say("starting")
    await asyncio.sleep(600)

lifecycle.run(main)
""",
    )
    assert line(process) == "starting"
    process.send_signal(signal.SIGTERM)
    assert rest(process)[0] == 0


def test_a_second_signal_cuts_the_drain_short(tmp_path: Path) -> None:
    """Whoever insists is obeyed."""
    process = start(
        tmp_path,
        """
async def main(life):
    say("ready")
    await life.stopping.wait()
    say("draining")
    await asyncio.sleep(600)

lifecycle.run(main)
""",
    )
    assert line(process) == "ready"
    process.send_signal(signal.SIGTERM)
    assert line(process) == "draining"
    process.send_signal(signal.SIGTERM)
    assert rest(process)[0] == 0


def test_a_task_that_survives_its_cancellation_does_not_keep_the_process(tmp_path: Path) -> None:
    """Whatever hangs at the end, the process is gone seconds later."""
    process = start(
        tmp_path,
        """
import contextlib

async def stubborn():
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()

async def main(life):
    keep = asyncio.create_task(stubborn())
    await asyncio.sleep(0)

lifecycle.TASK_END_LIMIT_S = 0.3
lifecycle.run(main)
""",
    )
    assert rest(process)[0] == 1


def test_a_process_that_ended_well_is_left_alone(tmp_path: Path) -> None:
    """The clock that ends a hung process stops with its loop."""
    process = start(
        tmp_path,
        """
import time

async def main(life):
    pass

lifecycle.TASK_END_LIMIT_S = 0.2
lifecycle.run(main)
time.sleep(0.6)
""",
    )
    assert rest(process)[0] == 0


@pytest.mark.parametrize(
    ("raising", "status", "text"),
    [
        ("from chassis.settings import SettingsError\n    raise SettingsError(['X is not set'])", 2, "X is not set"),
        (
            "from pathlib import Path\n    from chassis.config import ConfigError\n"
            "    raise ConfigError('bad', path=Path('c.yaml'), line=3)",
            2,
            "c.yaml:3: bad",
        ),
        ("raise RuntimeError('bug')", 1, "bug"),
    ],
)
def test_exit_statuses_tell_mistakes_of_operators_from_failures(
    tmp_path: Path, raising: str, status: int, text: str
) -> None:
    """2 with one line for wrong settings or config, 1 with a traceback for the rest."""
    process = start(tmp_path, f"async def main(life):\n    {raising}\n\nlifecycle.run(main)\n")
    got, out, err = rest(process)
    assert got == status
    assert text in out + err
    assert ("Traceback" in out + err) is (status == 1)


def test_metrics_come_without_the_times_at_which_counters_were_made(tmp_path: Path) -> None:
    """`_created` samples are many and say nothing that `up` doesn't."""
    process = start(
        tmp_path,
        """
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

async def main(life):
    registry = CollectorRegistry()
    Counter("things", "Things.", registry=registry).inc()
    Histogram("seconds", "Seconds.", registry=registry).observe(1)
    say(" ".join(line.split()[0] for line in generate_latest(registry).decode().splitlines() if line[0] != "#"))

lifecycle.run(main)
""",
    )
    status, out, err = rest(process)
    assert status == 0, err
    assert "things_total" in out
    assert "seconds_sum" in out
    assert "_created" not in out


def test_a_service_loads_without_the_collector_and_runs_with_it(tmp_path: Path) -> None:
    """Only what Python starts as a service turns it off, and then until it runs: a process without it only grows."""
    process = start(
        tmp_path,
        """
import gc, importlib
import services

async def main(life):
    say(f"{gc.isenabled()} {gc.get_threshold() == lifecycle.GC_THRESHOLDS}")

say(gc.isenabled())
sys.argv[0] = "-m"
importlib.reload(services)
say(gc.isenabled())
lifecycle.run(main)
""",
    )
    status, out, err = rest(process)
    assert (status, out.split("\n")[:3]) == (0, ["True", "False", "True True"]), err
