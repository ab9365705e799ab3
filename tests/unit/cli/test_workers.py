"""`serve edge --workers`, with real processes: a failed start is one, a death is repaired, an end is orderly."""

import http.client
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from chassis.settings import ServiceSettings, load
from cli.up.ports import pick_ports
from cli.up.process import identify, is_alive
from cli.workers import worker_environs

WITHIN_S = 20.0
EDGE = """
import asyncio, os, signal, sys
from pathlib import Path

async def main():
    notes, replica = Path(os.environ["NOTES"]), os.environ["TOLLBRIDGE_REPLICA"]
    if (notes / f"refuse-{replica}").exists():
        sys.exit("edge refuses to start")
    stop, running = asyncio.Event(), set()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)

    async def answer(reader, writer):
        running.add(asyncio.current_task())
        line = await reader.readline()
        body = str(os.getpid()).encode()
        writer.write(b"HTTP/1.1 200 OK\\r\\ncontent-length: %d\\r\\nconnection: close\\r\\n\\r\\n" % len(body))
        await writer.drain()
        while b"slow" in line and not stop.is_set():
            await asyncio.sleep(0.01)
        writer.write(body)
        await writer.drain()
        writer.close()

    for name, reuse in (("HTTP", True), ("METRICS", False)):
        host, _, port = os.environ[f"TOLLBRIDGE_{name}_BIND"].rpartition(":")
        await asyncio.start_server(answer, host, int(port), reuse_port=reuse)
    (notes / f"started-{replica}-{os.getpid()}").touch()
    await stop.wait()
    await asyncio.gather(*running)
    (notes / f"stopped-{replica}").touch()

asyncio.run(main())
"""


class Workers:
    """`tollbridge serve edge --workers 2` over a stand-in edge."""

    def __init__(self, folder: Path) -> None:
        self.notes = folder / "notes"
        self.notes.mkdir()
        package = folder / "services" / "edge"
        package.mkdir(parents=True)
        (package.parent / "__init__.py").touch()
        (package / "__init__.py").touch()
        (package / "__main__.py").write_text(EDGE)
        self.port = pick_ports(1)[0]
        self.output = folder / "output"
        self._folder = folder
        self.process: subprocess.Popen | None = None

    def start(self, **environ: str) -> None:
        path = os.pathsep.join([str(self._folder), str(Path(__file__).parents[3])])
        told = {"PYTHONPATH": path, "NOTES": str(self.notes), "TOLLBRIDGE_HTTP_BIND": f"127.0.0.1:{self.port}"}
        command = [sys.executable, "-m", "cli", "serve", "edge", "--workers", "2"]
        with self.output.open("w") as output:
            self.process = subprocess.Popen(
                command, env={**os.environ, **told, **environ}, stdout=output, stderr=output
            )

    def started(self, worker: int) -> list[int]:
        return [int(path.name.rpartition("-")[2]) for path in self.notes.glob(f"started-0-{worker}-*")]

    def ask(self, path: str = "/") -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WITHIN_S)
        connection.request("GET", path)
        return connection.getresponse()


def until(condition):
    deadline = time.monotonic() + WITHIN_S
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.01)
    raise AssertionError(f"not within {WITHIN_S} s")


@pytest.fixture
def workers(tmp_path):
    """Two workers, not started yet; none outlives the test."""
    made = Workers(tmp_path)
    yield made
    if made.process is not None and made.process.poll() is None:
        made.process.terminate()
        made.process.wait(WITHIN_S)


def test_a_worker_that_does_not_start_fails_the_whole_and_its_log_says_why(workers):
    """Half of the asked-for capacity is not taken for all of it; nobody is left behind."""
    (workers.notes / "refuse-0-1").touch()
    workers.start()
    assert workers.process.wait(WITHIN_S) == 1
    shown = workers.output.read_text()
    assert "edge refuses to start" in shown
    assert "edge-1 keeps ending" in shown
    assert all(identify(pid) is None for pid in workers.started(0))


def test_a_killed_worker_is_replaced_while_the_other_serves(workers):
    """One death is repaired, and requests are answered all the time."""
    workers.start()
    first, other = (until(lambda number=number: workers.started(number))[0] for number in (0, 1))
    victim, bystander = identify(first), identify(other)
    until(lambda: workers.ask().read())
    os.kill(first, signal.SIGKILL)
    until(lambda: not is_alive(victim))
    served = {int(workers.ask().read()) for _ in range(20)}
    assert other in served
    assert first not in served
    assert until(lambda: len(workers.started(0)) == 2)
    assert is_alive(bystander)
    assert workers.process.poll() is None


def test_sigterm_drains_every_worker_and_ends_with_status_0(workers):
    """A request that is under way is answered before its worker ends."""
    workers.start()
    until(lambda: workers.started(0) and workers.started(1))
    running = [workers.ask("/slow") for _ in range(8)]
    workers.process.terminate()
    assert all(int(each.read()) in workers.started(0) + workers.started(1) for each in running)
    assert workers.process.wait(WITHIN_S) == 0
    assert {path.name for path in workers.notes.glob("stopped-*")} == {"stopped-0-0", "stopped-0-1"}


def test_an_empty_variable_is_an_unset_one(workers):
    """`${X:-}` in a compose file leaves empty variables behind."""
    workers.start(TOLLBRIDGE_METRICS_BIND="", TOLLBRIDGE_DRAIN_GRACE_S="", TOLLBRIDGE_REPLICA="")
    until(lambda: workers.started(0) and workers.started(1))
    workers.process.terminate()
    assert workers.process.wait(WITHIN_S) == 0


def test_wrong_settings_are_named_before_any_worker_starts(workers):
    """The variable's name is shown, and not its value."""
    workers.start(TOLLBRIDGE_DRAIN_GRACE_S="soon")
    assert workers.process.wait(WITHIN_S) == 2
    shown = workers.output.read_text()
    assert "TOLLBRIDGE_DRAIN_GRACE_S" in shown
    assert "soon" not in shown


def test_workers_are_replicas_with_metrics_ports_of_their_own():
    """Workers share the HTTP port and nothing else; without a given metrics port each gets a free one."""
    environ = {
        "TOLLBRIDGE_REPLICA": "3",
        "TOLLBRIDGE_METRICS_BIND": "0.0.0.0:9100",
        "TOLLBRIDGE_HTTP_BIND": "0.0.0.0:80",
    }
    told = list(worker_environs(2, environ, load(ServiceSettings, environ)))
    assert [each["TOLLBRIDGE_REPLICA"] for each in told] == ["3-0", "3-1"]
    assert [each["TOLLBRIDGE_METRICS_BIND"] for each in told] == ["0.0.0.0:9100", "0.0.0.0:9101"]
    assert {each["TOLLBRIDGE_HTTP_BIND"] for each in told} == {"0.0.0.0:80"}
    free = [each["TOLLBRIDGE_METRICS_BIND"] for each in worker_environs(2, {}, load(ServiceSettings, {}))]
    assert len(set(free)) == 2
    assert not any(each.endswith(":0") for each in free)
