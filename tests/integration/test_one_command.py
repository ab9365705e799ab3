"""One command runs everything: from nothing, again, after SIGTERM, after SIGKILL of any one process and of all."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from cli.up.process import ProcessIdentity, identify, is_alive
from tests.integration.running import Gateway, gateway, wait_until
from tests.patience import promised

BUILT_IN = (Path(__file__).parents[2] / "cli" / "up" / "builtin.yaml").read_text()
EVERYBODY = ("edge", "auth", "router", "billing", "tasks", "nats", "postgres", "config")
BACK_WITHIN_S = promised(5.0)
SECOND_START_WITHIN_S = promised(6.0)


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """An instance of its own with the built-in config, since parts of it are killed."""
    with gateway(tmp_path_factory.mktemp("one-command"), BUILT_IN, from_nothing=True) as running:
        yield running


def ask(running: Gateway, *, model: str = "sandbox-chat", timeout_s: float = 10) -> httpx.Response:
    """The demo key's first request, as the welcome message has it but not streamed."""
    headers = {"authorization": f"Bearer {running.ready['demo_key']}"}
    body = {"model": model, "messages": [{"role": "user", "content": "Say hello."}]}
    return httpx.post(f"{running.base_url}/v1/chat/completions", headers=headers, json=body, timeout=timeout_s)


def answers(running: Gateway) -> bool:
    """Whether a request with the demo key is served now."""
    with contextlib.suppress(httpx.HTTPError):
        return ask(running, timeout_s=5).status_code == 200
    return False


def database_answers(running: Gateway) -> bool:
    """Whether the database takes connections: requests that fit a lease are served before."""
    with contextlib.suppress(psycopg.OperationalError), psycopg.connect(running.ready["database_url"]):
        return True
    return False


def demo_credits(running: Gateway) -> dict[str, Decimal]:
    """The demo customer's balance."""
    headers = {"authorization": f"Bearer {running.ready['demo_key']}"}
    data = httpx.get(f"{running.base_url}/v1/credits", headers=headers, timeout=10).json()["data"]
    return {name: Decimal(data[name]) for name in ("balance", "held")}


def processes(running: Gateway) -> list[ProcessIdentity]:
    """Who runs now, by `ready.json`."""
    found = [identify(each["pid"]) for each in running.ready["services"]]
    assert None not in found
    return [each for each in found if each is not None]


def addresses(running: Gateway) -> list[dict[str, Any]]:
    """What `ready.json` says of everybody, but for their pids."""
    return [{key: value for key, value in each.items() if key != "pid"} for each in running.ready["services"]]


def test_ready_json_lists_everybody_and_is_private(up: Gateway) -> None:
    """Scripts rely on its keys; it holds secrets, so only its owner reads it."""
    ready = up.ready
    assert {"base_url", "admin_token", "demo_key", "demo_customer_id", "console_url"} <= set(ready)
    assert {"nats_url", "database_url", "services"} <= set(ready)
    assert sorted(each["name"] for each in ready["services"]) == sorted(EVERYBODY)
    rows = {each["name"]: each for each in ready["services"]}
    assert set(rows["edge"]) == {"name", "replica", "pid", "http", "metrics"}
    assert set(rows["billing"]) == {"name", "replica", "pid", "grpc", "metrics"}
    assert set(rows["nats"]) == {"name", "pid"}
    assert up.ready_path.stat().st_mode & 0o777 == 0o600


def test_every_listed_address_answers_health_and_metrics(up: Gateway) -> None:
    """Each service says at its listed address that it lives and is ready, and shows its metrics."""
    for each in up.ready["services"]:
        if "metrics" in each:
            for path in ("/livez", "/readyz", "/metrics"):
                assert httpx.get(f"http://{each['metrics']}{path}", timeout=5).status_code == 200, (each, path)


def test_a_draining_edge_says_so_at_its_metrics_port_too(up: Gateway) -> None:
    """Whoever asks the port that a kubelet asks is told the same as at the HTTP port; the end of draining as well."""
    edge = next(each for each in up.ready["services"] if each["name"] == "edge")
    ports = (f"http://{edge['metrics']}/readyz", f"{up.base_url}/readyz")
    up.admin("POST", "/admin/drain")
    try:
        assert [httpx.get(url, timeout=5).status_code for url in ports] == [503, 503]
        assert httpx.get(ports[0], timeout=5).text.strip() == "draining"
    finally:
        up.admin("POST", "/admin/undrain")
    assert [httpx.get(url, timeout=5).status_code for url in ports] == [200, 200]


def test_the_listed_database_is_billings(up: Gateway) -> None:
    """The database URL in `ready.json` opens the ledger."""
    with psycopg.connect(up.ready["database_url"]) as connection:
        row = connection.execute("SELECT count(*) FROM billing.ledger_accounts").fetchone()
    assert row is not None
    assert row[0] >= 1


def test_a_first_request_with_the_demo_key_is_served_and_paid(up: Gateway) -> None:
    """The demo customer starts with 5 USD, and a request takes its price from that."""
    reply = ask(up)
    assert reply.status_code == 200, reply.text
    cost = Decimal(str(reply.json()["usage"]["cost"]))
    assert cost > 0

    def settled() -> bool:
        found = demo_credits(up)
        return found["held"] == 0 and found["balance"] == 5 - cost

    wait_until(settled, timeout_s=20, what="the request is settled")
    up.verify()


@pytest.mark.parametrize("name", EVERYBODY)
def test_a_killed_process_is_back_within_five_seconds(up: Gateway, name: str) -> None:
    """Whoever dies is started again at the same address, and requests are served as before."""
    before, old = addresses(up), up.pid(name)
    began = time.monotonic()
    os.kill(old, signal.SIGKILL)
    wait_until(lambda: up.pid(name) != old, timeout_s=BACK_WITHIN_S, what=f"{name} is started again")
    wait_until(lambda: answers(up), timeout_s=BACK_WITHIN_S - (time.monotonic() - began), what="requests are served")
    assert addresses(up) == before
    wait_until(
        lambda: database_answers(up), timeout_s=BACK_WITHIN_S - (time.monotonic() - began), what="the database is back"
    )
    up.verify()


def test_sigkill_of_everything_is_recovered_by_the_next_start(up: Gateway) -> None:
    """Nothing that was there is lost, nobody is left over, and the same key works at once."""
    key, everybody = up.ready["demo_key"], processes(up)
    up.kill_everything()
    wait_until(lambda: not any(is_alive(each) for each in everybody), timeout_s=20, what="everybody is gone")
    up.ready_path.unlink()
    up.start()
    assert up.ready["demo_key"] == key
    assert ask(up).status_code == 200
    up.verify()


def test_sigterm_leaves_nobody_and_a_second_start_is_quick(up: Gateway) -> None:
    """A stop ends every process and takes `ready.json` away; the next start is ready within seconds."""
    everybody = processes(up)
    assert up.stop() == 0
    assert not any(is_alive(each) for each in everybody)
    assert not up.ready_path.exists()
    began = time.monotonic()
    up.start()
    took_s = time.monotonic() - began
    assert ask(up).status_code == 200
    if os.getloadavg()[0] < (os.cpu_count() or 1):  # on a machine that is busy otherwise the clock proves nothing
        assert took_s < SECOND_START_WITHIN_S


def test_two_instances_run_side_by_side(up: Gateway, system: Gateway) -> None:
    """Another data directory and port are another Tollbridge: its keys are its own."""
    assert ask(system).status_code == 200
    headers = {"authorization": f"Bearer {up.ready['demo_key']}"}
    assert httpx.get(f"{system.base_url}/v1/credits", headers=headers, timeout=10).status_code == 401
    assert ask(up).status_code == 200
