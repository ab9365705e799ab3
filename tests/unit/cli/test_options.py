"""What `tollbridge up` was asked to do: options, addresses and what each process is told."""

import dataclasses
import json
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from chassis.callers import Callers, parse_tokens
from cli.up import orphans
from cli.up.data_dir import DataDir, DataDirError, read_json, write_private_json
from cli.up.instance_secrets import load_or_make, remember_demo_key
from cli.up.options import BUILT_IN_CONFIG, UpOptions, WrongOption, check_port, choose_config, parse_replicas
from cli.up.ports import pick_ports
from cli.up.process import identify, is_alive
from cli.up.topology import grpc_addresses, seats, service_program, shared_environ


def test_without_a_file_the_built_in_config_is_used(tmp_path, monkeypatch):
    """A fresh checkout needs no config; a tollbridge.yaml beside it wins; a given file must be there."""
    monkeypatch.chdir(tmp_path)
    assert choose_config(None) == BUILT_IN_CONFIG
    (tmp_path / "tollbridge.yaml").touch()
    assert choose_config(None) == tmp_path / "tollbridge.yaml"
    with pytest.raises(WrongOption, match="--config"):
        choose_config(Path("absent.yaml"))


def test_replicas_are_read_and_bounded():
    """`edge=2,router=3` means just that; unknown names and silly numbers are refused."""
    assert parse_replicas(" edge=2, router=3") == {"edge": 2, "router": 3}
    assert parse_replicas("") == {}
    for wrong in ("web=2", "edge=0", "edge=33", "edge", "edge=x"):
        with pytest.raises(WrongOption, match="--replicas"):
            parse_replicas(wrong)


@pytest.mark.parametrize(
    ("host", "base_url"),
    [
        ("127.0.0.1", "http://127.0.0.1:9000"),
        ("0.0.0.0", "http://127.0.0.1:9000"),
        ("::1", "http://[::1]:9000"),
        ("::", "http://[::1]:9000"),
    ],
)
def test_the_base_url_is_reachable_from_this_machine(host, base_url):
    """An address that means everywhere is no address to call."""
    assert UpOptions(config=BUILT_IN_CONFIG, host=host, port=9000).base_url == base_url


def test_a_taken_port_is_refused_and_a_free_one_is_not():
    """Who asks for a port gets it or an error."""
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(WrongOption, match="--port"):
        check_port(UpOptions(config=BUILT_IN_CONFIG, port=taken.getsockname()[1]))
    check_port(UpOptions(config=BUILT_IN_CONFIG, port=pick_ports(1)[0]))


def test_every_replica_has_addresses_of_its_own_and_knows_all_owners(tmp_path):
    """Replicas share nothing but the spool; everybody is told where every replica of an owner is."""
    options = UpOptions(config=BUILT_IN_CONFIG, replicas={"edge": 2, "router": 2}, port=9000)
    secrets = load_or_make(_data_dir(tmp_path), environ={})
    placed = seats(options)
    addresses = [address for seat in placed for address in (seat.main, seat.metrics, seat.spare)]
    assert len(set(addresses)) == len(addresses) == 21
    assert placed[[seat.service for seat in placed].index("edge")].main == "127.0.0.1:9000"
    shared = shared_environ(
        config=_data_dir(tmp_path).checked_config,
        secrets=secrets,
        placed=placed,
        nats_url="nats://n",
        database_url="postgresql://d",
        environ={},
    )
    assert shared["TOLLBRIDGE_ROUTER_ADDRESSES"] == grpc_addresses(placed, "router")
    assert shared["TOLLBRIDGE_ROUTER_ADDRESSES"].count(",") == 1
    assert shared["TOLLBRIDGE_CONFIG_PATH"] == str(tmp_path / "checked.yaml")
    told = {}
    for seat in placed:
        program = service_program(seat, shared=shared, secrets=secrets, data_dir=_data_dir(tmp_path))
        told[program.label] = program.environ
    assert told["edge-0"]["TOLLBRIDGE_SPOOL_DIR"] == told["edge-1"]["TOLLBRIDGE_SPOOL_DIR"]
    assert told["edge-0"]["TOLLBRIDGE_HTTP_BIND"] == "127.0.0.1:9000"
    assert told["edge-0"]["TOLLBRIDGE_SERVICE_TOKEN"].startswith("edge:")
    assert [name for name, environ in told.items() if environ.get("TOLLBRIDGE_DRAIN_GRACE_S") == "600"] == [
        "edge-0", "edge-1"
    ]  # fmt: skip
    assert [name for name, environ in told.items() if "TOLLBRIDGE_ADMIN_TOKEN" in environ] == ["edge-0", "edge-1"]
    assert [name for name, environ in told.items() if "TOLLBRIDGE_KEY_PEPPERS" in environ] == ["auth-0"]
    assert [name for name, environ in told.items() if "TOLLBRIDGE_RECEIPT_KEY" in environ] == ["billing-0"]
    assert [name for name, environ in told.items() if "TOLLBRIDGE_AT_REST_KEYS" in environ] == ["billing-0", "tasks-0"]


def test_no_process_is_told_the_secret_of_another(tmp_path):
    """It knows its callers by hashes; edge, whom nobody calls, not even so."""
    secrets = load_or_make(_data_dir(tmp_path), environ={})
    placed = seats(UpOptions(config=BUILT_IN_CONFIG))
    shared = shared_environ(
        config=tmp_path / "c", secrets=secrets, placed=placed, nats_url="n", database_url="d", environ={}
    )
    for seat in placed:
        environ = service_program(seat, shared=shared, secrets=secrets, data_dir=_data_dir(tmp_path)).environ
        told = " ".join(environ.values())
        assert [name for name, secret in secrets.service_tokens.items() if secret in told] == [seat.service]
        tokens = environ.get("TOLLBRIDGE_SERVICE_TOKENS", "")
        assert bool(tokens) == (seat.service != "edge")
        if tokens:
            own = {"authorization": secrets.own_token("tasks")}
            assert Callers(parse_tokens(tokens)).name(own, None) == "tasks"


def test_secrets_are_made_once_kept_privately_and_given_way_by_the_environment(tmp_path):
    """A restart has the same tokens and pepper; an operator's own win; the demo key is remembered."""
    data_dir = _data_dir(tmp_path)
    first = load_or_make(data_dir, environ={})
    remember_demo_key(data_dir, "tb_live_x")
    again = load_or_make(data_dir, environ={"TOLLBRIDGE_ADMIN_TOKEN": "own"})
    assert again.service_tokens == first.service_tokens
    assert again.key_peppers == first.key_peppers
    assert (again.receipt_key, again.at_rest_keys) == (first.receipt_key, first.at_rest_keys)
    assert (again.admin_token, again.demo_key) == ("own", "tb_live_x")
    assert load_or_make(data_dir, environ={}).admin_token == first.admin_token
    assert data_dir.secrets.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(("name", "length"), [("receipt_key", 64), ("at_rest_keys", 66)])
def test_an_instance_from_before_there_was_a_key_gets_one_and_keeps_it(tmp_path, name, length):
    """Another key at each start would fill the list of receipt keys, and leave secrets that nobody can read."""
    data_dir = _data_dir(tmp_path)
    load_or_make(data_dir, environ={})
    kept = json.loads(data_dir.secrets.read_text())
    del kept[name]
    data_dir.secrets.write_text(json.dumps(kept))
    first = load_or_make(data_dir, environ={})
    assert len(getattr(first, name)) == length
    assert load_or_make(data_dir, environ={}) == first


def test_damaged_secrets_are_refused_rather_than_replaced(tmp_path):
    """A new pepper would silently kill every key, so nothing is made in the place of what can't be read."""
    data_dir = _data_dir(tmp_path)
    data_dir.secrets.write_text("{")
    with pytest.raises(DataDirError, match="damaged"):
        load_or_make(data_dir, environ={})


def test_a_data_directory_has_one_holder(tmp_path):
    """The lock is there while its holder lives, and anybody can see that."""
    first, second = DataDir(tmp_path / "data"), DataDir(tmp_path / "data")
    assert not second.is_running()
    first.acquire()
    assert second.is_running()
    with pytest.raises(DataDirError, match="in use"):
        second.acquire()
    first.release()
    assert not second.is_running()
    second.acquire()
    second.release()


def test_asking_who_holds_a_directory_never_keeps_its_next_holder_out(tmp_path):
    """`tollbridge status` may look at any moment, also at the one in which an `up` starts."""
    asked, holder = DataDir(tmp_path / "data"), DataDir(tmp_path / "data")
    holder.acquire()
    holder.release()
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            asked.is_running()

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        for _ in range(300):
            holder.acquire()
            holder.release()
    finally:
        over.set()
        asking.join()


def test_a_killed_holder_holds_nothing(tmp_path):
    """What it wrote into the lock is still there, but the process isn't."""
    script = "import sys, time\nfrom pathlib import Path\nfrom cli.up.data_dir import DataDir\n"
    script += "DataDir(Path(sys.argv[1])).acquire()\nprint(1, flush=True)\ntime.sleep(60)"
    holder = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "data")], stdout=subprocess.PIPE)
    with holder:
        holder.stdout.readline()
        assert DataDir(tmp_path / "data").is_running()
        holder.kill()
    assert not DataDir(tmp_path / "data").is_running()


def test_only_the_recorded_process_is_an_orphan_not_a_later_one_with_its_pid(tmp_path):
    """A pid is given again; who has it now and started at another time is none of ours."""
    data_dir = DataDir(tmp_path)
    with subprocess.Popen(["sleep", "60"]) as ours, subprocess.Popen(["sleep", "60"]) as stranger:
        try:
            left, other = identify(ours.pid), identify(stranger.pid)
            orphans.record(data_dir, [left, dataclasses.replace(other, started="earlier")])
            reaping = threading.Thread(target=ours.wait)
            reaping.start()
            assert orphans.end_recorded(data_dir) == [ours.pid]
            reaping.join()
            assert is_alive(other)
        finally:
            ours.kill()
            stranger.kill()


def test_small_files_are_replaced_whole_and_privately(tmp_path):
    """A reader sees the old content or the new one, and only its owner sees any."""
    path = tmp_path / "x.json"
    write_private_json(path, {"a": 1})
    write_private_json(path, {"a": 2})
    assert read_json(path) == {"a": 2}
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_json(tmp_path / "absent.json") is None


def _data_dir(folder: Path) -> DataDir:
    return DataDir(folder)
