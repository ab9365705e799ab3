"""The launchers of the embedded servers, against the real binaries."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import nats as nats_client
import psycopg
import pytest

from cli.up import ports as free_ports
from cli.up.nats import EmbeddedNats
from cli.up.ports import is_free, pick_ports
from cli.up.postgres import SHARED_MEMORY, EmbeddedPostgres
from cli.up.process import end, identify, is_alive, spawn, tethered
from cli.up.unprivileged import find_disguise
from tests.conftest import RunningServer


def _until(condition, within_s: float = 10.0) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.01)
    return False


def test_each_module_gets_an_empty_utf8_database(postgres_url):
    """The fixture's database holds nothing and speaks UTF-8 in the C locale."""
    with psycopg.connect(postgres_url) as connection:
        row = connection.execute(
            "SELECT current_setting('server_encoding'), datcollate FROM pg_database WHERE datname = current_database()"
        ).fetchone()
        tables = connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone()
    assert row == ("UTF8", "C")
    assert tables == (0,)


def test_postgres_refuses_a_wrong_password(postgres_url):
    """Being on the same machine is not enough to read the ledger."""
    user, _, rest = postgres_url.partition("@")
    wrong = f"{user.rpartition(':')[0]}:wrong@{rest}"
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(wrong)


async def test_nats_refuses_a_wrong_password(nats_url):
    """Being on the same machine is not enough to publish usage."""
    errors: list[Exception] = []

    async def note(error: Exception) -> None:
        errors.append(error)

    with pytest.raises(Exception, match=r"Authorization|nats"):
        await nats_client.connect(nats_url.replace("tollbridge:", "tollbridge:x"), allow_reconnect=False, error_cb=note)


async def test_nats_offers_jetstream_and_keeps_streams_over_a_kill(nats_server, nats_url):
    """What JetStream acknowledged is there after SIGKILL and a start on the same port."""
    client = await nats_client.connect(nats_url)
    await client.jetstream().add_stream(name="KEPT", subjects=["kept"])
    await client.jetstream().publish("kept", b"once")
    await client.close()
    nats_server.kill()
    nats_server.start()
    client = await nats_client.connect(nats_url)
    info = await client.jetstream().stream_info("KEPT")
    await client.close()
    assert info.state.messages == 1


@pytest.fixture
def own_postgres(tmp_path):
    """A PostgreSQL below a folder that only its owner may enter."""
    folder = tmp_path / "private"
    folder.mkdir(mode=0o700)
    running = RunningServer(
        server=EmbeddedPostgres(directory=folder / "postgres", port=pick_ports(1)[0], fsync=False),
        log_path=folder / "log",
    )
    running.start()
    yield running
    running.stop()


def test_postgres_keeps_data_over_a_kill_on_the_same_port(own_postgres):
    """A committed row is there after SIGKILL of the postmaster and a new start."""
    server = own_postgres.server
    with psycopg.connect(server.url()) as connection:
        connection.execute("CREATE TABLE fact (n int)")
        connection.execute("INSERT INTO fact VALUES (7)")
    own_postgres.kill()
    own_postgres.start()
    with psycopg.connect(server.url()) as connection:
        assert connection.execute("SELECT n FROM fact").fetchone() == (7,)


def test_a_reused_pid_in_postmaster_pid_is_not_taken_for_postgres(own_postgres, tmp_path):
    """A stale mark that names some other living process neither stops the start nor that process."""
    mark = tmp_path / "private/postgres/data/postmaster.pid"
    lines = mark.read_text().splitlines()
    own_postgres.kill()
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        mark.write_text("\n".join([str(stranger.pid), *lines[1:]]) + "\n")
        own_postgres.start()
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_former_postmaster_on_the_data_is_ended_before_the_next_starts(own_postgres, tmp_path):
    """One data directory never has two servers: what still runs there is stopped first."""
    former = identify(own_postgres.pid)
    successor = EmbeddedPostgres(directory=tmp_path / "private/postgres", port=pick_ports(1)[0], fsync=False)
    successor.prepare()
    assert former is not None
    assert not is_alive(former)


@pytest.mark.skipif(not SHARED_MEMORY.exists(), reason="the kernel doesn't tell who uses shared memory")
def test_a_killed_postmasters_orphans_are_waited_for(own_postgres, tmp_path):
    """One that does not end at once, as in a recovery, costs no failed start: too many of them would be the end."""
    with psycopg.connect(own_postgres.server.url()) as connection:
        orphan = identify(connection.info.backend_pid)
        os.kill(orphan.pid, signal.SIGSTOP)
        own_postgres.kill()
        threading.Timer(1.0, os.kill, (orphan.pid, signal.SIGCONT)).start()
        own_postgres.start()
    assert not is_alive(orphan)
    assert "still in use" not in (tmp_path / "private/log").read_text()


def test_a_tethered_process_dies_with_its_parent(tmp_path):
    """SIGKILL of the parent ends the child, although nobody was left to tell it."""
    script = (
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from cli.up.process import spawn, tethered\n"
        "argv = tethered([sys.executable, '-c', 'import time; time.sleep(60)'], death_signal=9)\n"
        "child = spawn(argv, log_path=Path(sys.argv[1]), env=os.environ)\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "log")], stdout=subprocess.PIPE, text=True)
    child_pid = int(parent.stdout.readline())
    assert _until(lambda: "time.sleep(60)" in "".join(Path(f"/proc/{child_pid}/cmdline").read_text()))
    child = identify(child_pid)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert child is not None
    assert _until(lambda: not is_alive(child))


def test_a_tethered_process_whose_parent_is_gone_never_starts(tmp_path):
    """A parent that died before the tie was made leaves nobody behind."""
    argv = tethered(["/bin/sleep", "60"], death_signal=signal.SIGKILL, parent_pid=2**22)
    child = spawn(argv, log_path=tmp_path / "log", env=os.environ)
    assert child.wait(timeout=10) != 0
    assert "parent is gone" in (tmp_path / "log").read_text()


def test_an_identity_is_not_shared_by_a_zombie():
    """A process that ended but was not reaped counts as gone."""
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    assert _until(lambda: identify(child.pid) is None)
    child.wait()


def test_end_kills_what_ignores_the_first_signal():
    """A process deaf to SIGTERM is gone after its patience."""
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", deaf], stdout=subprocess.PIPE)
    child.stdout.readline()
    identity = identify(child.pid)
    assert identity is not None
    assert end(identity, first=signal.SIGTERM, patience_s=0.2)
    child.wait()
    child.stdout.close()


def test_picked_ports_are_different_free_and_outside_the_source_port_range():
    """Ports are handed out once each, below the range from which outgoing connections take theirs."""
    ports = pick_ports(20)
    assert len(set(ports)) == 20
    assert all(is_free(port, host="127.0.0.1") for port in ports)
    assert max(ports) < 32_768


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has abstract sockets")
def test_a_port_that_an_instance_keeps_is_given_to_nobody_else(monkeypatch: pytest.MonkeyPatch):
    """Two instances that start at the same time get different ports, though nobody listens on them yet."""
    monkeypatch.setattr(free_ports, "HIGHEST", free_ports.LOWEST + 60)
    with contextlib.ExitStack() as kept:
        first = pick_ports(20, kept=kept)
        assert not set(first) & set(pick_ports(20))
    assert set(first) & {port for _ in range(20) for port in pick_ports(20)}


@pytest.mark.skipif(shutil.which("unshare") is None, reason="no unshare (util-linux) on this machine")
def test_a_user_without_a_name_runs_postgres_under_a_name(tmp_path, monkeypatch):
    """Containers run with any uid, and initdb wants to know its user's name."""
    if subprocess.run(["unshare", "-U", "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine refuses user namespaces")
    monkeypatch.setattr(os, "geteuid", lambda: 54_321)
    disguise = find_disguise(programs=[], directory=tmp_path)
    assert "--map-user=65534" in disguise.prefix
    assert disguise.owner == 54_321, "its files stay its own"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root needs a disguise")
def test_root_without_user_namespaces_runs_postgres_by_setpriv(tmp_path, monkeypatch):
    """Where unshare is refused, root's PostgreSQL runs as 65534 below a folder that only root may enter."""
    folder = tmp_path / "private"
    folder.mkdir(mode=0o700)
    refusing = tmp_path / "bin"
    refusing.mkdir()
    (refusing / "unshare").write_text("#!/bin/sh\necho unshare failed: Operation not permitted >&2\nexit 1\n")
    (refusing / "unshare").chmod(0o755)
    server = EmbeddedPostgres(directory=folder / "postgres", port=pick_ports(1)[0], fsync=False)
    running = RunningServer(server=server, log_path=folder / "log")
    running.start()
    running.stop()
    monkeypatch.setenv("PATH", f"{refusing}:{os.environ['PATH']}")
    assert "setpriv" in find_disguise(programs=[], directory=folder).prefix[0]
    running.start()
    try:
        assert Path(f"/proc/{running.pid}").stat().st_uid == 65_534
        with psycopg.connect(server.url()) as connection:
            assert connection.execute("SELECT current_database()").fetchone() == ("tollbridge",)
    finally:
        running.stop()


def test_nats_below_a_private_folder_has_a_private_password(tmp_path):
    """The generated password is readable by its owner only and stays the same over runs."""
    server = EmbeddedNats(directory=tmp_path / "nats", port=pick_ports(1)[0])
    server.prepare()
    first = server.url
    server.prepare()
    assert server.url == first
    assert (tmp_path / "nats/password").stat().st_mode & 0o777 == 0o600
