"""Long jobs whose worker, bus or database is lost: each ends once, is charged once, and nothing stays held."""

import concurrent.futures
import os
import signal
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from tests.conftest import RunningServer
from tests.integration.offer import CONFIG
from tests.integration.running import Account, Gateway, gateway, wait_until

PER_IMAGE_USD = Decimal("0.02")
PER_SECOND_USD = Decimal("0.10")
PER_CHARACTER_USD = Decimal("0.000015")
QUEUED = 100
QUEUED_OF_EACH = 8
HEAP = 990
DOWN_S = 20.0
HELD_AT_MOST_S = 200.0
TAKEN_UP_WITHIN_S = 120.0
"""A claim lapses after 30 s, and a busy machine takes its time."""


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory,
    postgres_url: str,
    postgres_server: RunningServer,
    nats_server: RunningServer,
) -> Iterator[Gateway]:
    """A system on servers that may be killed; nobody but the sandbox makes anything here."""
    directory: Path = tmp_path_factory.mktemp("jobs")
    arguments = ("--nats-url", nats_server.server.url, "--database-url", postgres_url)
    with gateway(directory, CONFIG % {"provider": "http://127.0.0.1:9"}, *arguments) as found:
        yield found


@pytest.fixture
def account(running: Gateway) -> Account:
    return running.customer(credit_usd="50")


def order(account: Account, path: str, **body: object) -> str:
    """Hands a job over and does not wait; its id."""
    reply = httpx.post(
        f"{account.gateway.base_url}/v1{path}",
        json=body,
        headers=account.headers | {"prefer": "respond-async"},
        timeout=60,
    )
    assert reply.status_code in (200, 202), reply.text
    found: str = reply.json().get("task_id") or reply.json()["id"]
    return found


def image(account: Account, *, takes_ms: int) -> str:
    prompt = f'x\n#sandbox {{"first_byte_ms": {takes_ms}}}'
    return order(account, "/images/generations", model="sandbox-image", prompt=prompt, size="256x256")


def video(account: Account, *, takes_ms: int) -> str:
    prompt = f'x\n#sandbox {{"chunks": {takes_ms // 100}, "gap_ms": 100}}'
    return order(account, "/videos", model="sandbox-video", prompt=prompt, seconds="4", size="128x128")


def spoken(*, takes_ms: int) -> str:
    """A text that takes so long to be spoken."""
    return f'Hello.\n#sandbox {{"first_byte_ms": {takes_ms}}}'


def speech(account: Account, *, takes_ms: int) -> str:
    return order(account, "/audio/speech", model="tts-1", voice="alloy", input=spoken(takes_ms=takes_ms))


def task(account: Account, task_id: str) -> dict[str, Any]:
    found: dict[str, Any] = account.get(f"/tasks/{task_id}")
    return found


def has(account: Account, task_id: str, holds: Callable[[dict[str, Any]], bool]) -> Callable[[], Any]:
    """A condition on a task, false while nobody answers."""

    def look() -> Any:
        try:
            found = task(account, task_id)
        except (httpx.HTTPError, AssertionError):
            return None
        return found if holds(found) else None

    return look


def charged(account: Account, amount: Decimal) -> None:
    """Exactly that was taken, nothing is held, and the ledger proves it."""
    found = account.settled_credits(timeout_s=90)
    assert (found["total_usage"], found["held"]) == (amount, 0)
    assert account.gateway.verify()["clean"]


@pytest.mark.thorough
def test_a_worker_killed_while_it_makes_something_costs_its_customer_nothing_more(
    running: Gateway, account: Account
) -> None:
    """kill -9 before the provider has answered: another worker makes it."""
    task_id = image(account, takes_ms=4000)
    wait_until(has(account, task_id, lambda it: it["status"] == "running"), timeout_s=30, what="it runs")
    os.kill(running.pid("tasks"), signal.SIGKILL)
    done = has(account, task_id, lambda it: it["status"] == "succeeded")
    wait_until(done, timeout_s=TAKEN_UP_WITHIN_S, what="another worker ends it")
    charged(account, PER_IMAGE_USD)


@pytest.mark.thorough
def test_a_worker_killed_after_it_has_submitted_loses_nothing(
    running: Gateway, account: Account, postgres_url: str
) -> None:
    """The provider's job is asked for by whoever has it next, under the id that it had; or cancelled, unwanted."""
    ends, stays = video(account, takes_ms=6000), video(account, takes_ms=600_000)
    names = {
        task_id: wait_until(lambda it=task_id: submitted(postgres_url, it), timeout_s=30, what="it is submitted")
        for task_id in (ends, stays)
    }
    os.kill(running.pid("tasks"), signal.SIGKILL)
    done = has(account, ends, lambda it: it["status"] == "succeeded")
    wait_until(done, timeout_s=TAKEN_UP_WITHIN_S, what="another worker fetches it")
    assert submitted(postgres_url, ends) == names[ends]
    httpx.post(f"{running.base_url}/v1/tasks/{stays}/cancel", headers=account.headers, timeout=30).raise_for_status()
    assert task(account, stays)["status"] == "cancelled"
    charged(account, 4 * PER_SECOND_USD)


@pytest.mark.thorough
def test_a_hundred_queued_jobs_outlive_a_bus_that_is_restarted(
    running: Gateway, account: Account, nats_server: RunningServer
) -> None:
    """The database is the truth about what waits; the bus only wakes."""
    tasks = queued(account)
    nats_server.kill()
    time.sleep(3)
    nats_server.start()
    all_succeed(account, tasks)
    charged(account, QUEUED * PER_IMAGE_USD)


@pytest.mark.thorough
def test_jobs_outlive_a_database_that_is_down_for_a_while(
    running: Gateway, account: Account, postgres_server: RunningServer
) -> None:
    """What runs meanwhile is made, and ends once the database is back."""
    tasks = queued(account)
    postgres_server.kill()
    time.sleep(DOWN_S)
    postgres_server.start()
    all_succeed(account, tasks)
    charged(account, QUEUED * PER_IMAGE_USD)


@pytest.mark.thorough
def test_ten_jobs_behind_990_of_somebody_else_are_done_in_the_first_tenth(
    running: Gateway, account: Account, postgres_url: str
) -> None:
    """Customers take turns, however many jobs each has waiting."""
    other = running.customer(credit_usd="10")
    heap = queued(account, count=HEAP, takes_ms=2000)
    before = ended(postgres_url, account)
    few = queued(other, count=10, takes_ms=2000)
    all_succeed(other, few)
    assert ended(postgres_url, account) - before + len(few) <= (HEAP + len(few)) // 10
    for task_id in heap:
        httpx.post(f"{running.base_url}/v1/tasks/{task_id}/cancel", headers=account.headers, timeout=30)
    charged(other, len(few) * PER_IMAGE_USD)
    charged(account, ended(postgres_url, account) * PER_IMAGE_USD)


@pytest.mark.thorough
@pytest.mark.parametrize("victim", ["tasks", "router", "billing", "auth", "edge", "nats", "postgres"])
def test_jobs_of_every_kind_outlive_whoever_is_killed(
    running: Gateway, account: Account, postgres_server: RunningServer, nats_server: RunningServer, victim: str
) -> None:
    """kill -9 while some run and some wait: each ends well, and each is charged once."""
    orders = [
        (image(account, takes_ms=3000), video(account, takes_ms=3000), speech(account, takes_ms=3000))
        for _ in range(QUEUED_OF_EACH)
    ]
    servers = {"nats": nats_server, "postgres": postgres_server}
    if victim in servers:
        servers[victim].kill()
        time.sleep(1)
        servers[victim].start()
    else:
        os.kill(running.pid(victim), signal.SIGKILL)
    all_succeed(account, [task_id for each in orders for task_id in each])
    each_usd = PER_IMAGE_USD + 4 * PER_SECOND_USD + len(spoken(takes_ms=3000)) * PER_CHARACTER_USD
    charged(account, QUEUED_OF_EACH * each_usd)


@pytest.mark.thorough
def test_orders_that_were_lost_with_the_process_that_took_them_hold_nothing_for_long(
    running: Gateway, account: Account
) -> None:
    """Some are refused while it dies, and their money is free within minutes; the others are made."""
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        asked = [threads.submit(image, account, takes_ms=100) for _ in range(QUEUED)]
        time.sleep(0.5)
        os.kill(running.pid("tasks"), signal.SIGKILL)
        concurrent.futures.wait(asked)
    wait_until(lambda: no_more_than(account, 0), timeout_s=HELD_AT_MOST_S, what="nothing is held")
    found = account.get("/tasks?limit=200")["data"]
    assert {each["status"] for each in found} == {"succeeded"}
    charged(account, len(found) * PER_IMAGE_USD)


def no_more_than(account: Account, held_usd: int) -> bool:
    try:
        return account.credits()["held"] <= held_usd
    except (httpx.HTTPError, AssertionError):
        return False


def ended(url: str, account: Account) -> int:
    """How many of a customer's jobs have succeeded."""
    with psycopg.connect(url) as connection:
        query = "SELECT count(*) FROM tasks.tasks WHERE customer_id = %s AND status = 'succeeded'"
        row = connection.execute(query, (account.customer_id,)).fetchone()
    assert row is not None
    return int(row[0])


def queued(account: Account, *, count: int = QUEUED, takes_ms: int = 1500) -> list[str]:
    """So many jobs, most of which wait."""
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        return list(threads.map(lambda _: image(account, takes_ms=takes_ms), range(count)))


def all_succeed(account: Account, tasks: list[str]) -> None:
    for task_id in tasks:
        done = has(account, task_id, lambda it: it["status"] == "succeeded")
        wait_until(done, timeout_s=TAKEN_UP_WITHIN_S, what=f"task {task_id} succeeds")


def submitted(url: str, task_id: str) -> str:
    """The provider's id of a job, empty before it has one."""
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT provider_task_id FROM tasks.tasks WHERE id = %s", (task_id,)).fetchone()
    assert row is not None
    return str(row[0])
