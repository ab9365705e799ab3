"""Long jobs at providers in trouble, each with its work order ten times too many, on a whole system with two workers.

Every kind of trouble on every wire is begun at once, each by a customer of its own, so that what one is charged says
what became of its job. A trigger of this database gives some models seconds for what has minutes elsewhere.
"""

import asyncio
import concurrent.futures
import dataclasses
import json
import time
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import nats
import psycopg
import pytest

from tests.conftest import RunningServer
from tests.fakes.troubled import Hooks, Seen, TroubledProvider, in_thread
from tests.integration.running import Account, Gateway, gateway, wait_until
from tollbridge.tasks.v1 import tasks_pb2

pytestmark = pytest.mark.thorough

COPIES = 10
SHORT_S = 12
LONG_S = 180.0
PATIENCE_S = 60
TEXT = "a bridge"
PRICES = {
    "image": Decimal("0.023456789"),
    "speech": len(TEXT) * Decimal("0.000012345"),
    "video": 4 * Decimal("0.012345678"),
    "prediction": Decimal("0.034567891"),
}
CHARGED_BY = {
    "image": {"per_image": "0.023456789"},
    "speech": {"per_million_characters": "12.345"},
    "video": {"per_second": "0.012345678"},
    "prediction": {"per_image": "0.034567891"},
}
KINDS = {"image": "image", "speech": "speech", "video": "video", "prediction": "image"}
"""By wire, as the prices."""
PATHS = {"image": "/images/generations", "speech": "/audio/speech", "video": "/videos"}
"""By kind."""
WIRES = tuple(PRICES)
JOBS_OF_THEIR_OWN = ("video", "prediction")
FETCHED = ("image", *JOBS_OF_THEIR_OWN)
ENDS_WELL = {
    "fine": WIRES,
    "breaks_once": WIRES,
    "takes_and_breaks_once": WIRES,
    "takes_and_hangs_once": WIRES,
    "misses": FETCHED,
}
OUT_OF_TIME = {
    "breaks": WIRES,
    "fails": WIRES,
    "hangs_at_submit": WIRES,
    "breaks_at_poll": JOBS_OF_THEIR_OWN,
    "hangs_at_poll": JOBS_OF_THEIR_OWN,
    "breaks_at_download": FETCHED,
    "hangs_at_download": WIRES,
    "late": WIRES,
}
ENDS_BADLY = OUT_OF_TIME | {"rejects": WIRES}
LEFT_THERE = ("hangs_at_poll", "breaks_at_poll", "breaks_at_download", "hangs_at_download", "late")
"""Where the provider has a job that nobody wants any more."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One trouble on one wire."""

    trouble: str
    wire: str

    @property
    def model(self) -> str:
        """Its own model, at its own provider: accounts that fail rest."""
        return f"{self.trouble}-{self.wire}"


GOOD = [Case(trouble=trouble, wire=wire) for trouble, wires in ENDS_WELL.items() for wire in wires]
BAD = [Case(trouble=trouble, wire=wire) for trouble, wires in ENDS_BADLY.items() for wire in wires]
NEARLY = [Case(trouble=f"nearly{number}", wire=wire) for number in range(10) for wire in ("image", "speech")]
"""Made about when their time is over."""
ALL = GOOD + BAD + NEARLY


def config(provider_url: str) -> str:
    """A provider and a model for each case."""
    providers, models = [], []
    for case in ALL:
        protocol = "predictions" if case.wire == "prediction" else "openai"
        seconds = 3 if "hangs" in case.trouble else 30
        timeouts = {"connect": 2, "first_byte": seconds, "idle": seconds, "total": 120}
        providers.append(
            {
                "id": case.model,
                "protocol": protocol,
                "base_url": f"{provider_url}/{case.model}/v1",
                "timeouts": timeouts,
                "accounts": [{"id": f"{case.model}-a", "api_key": "canary-troubled-secret"}],
            }
        )
        route = {"provider": case.model, "model": "maker/thing"}
        kind, price = KINDS[case.wire], CHARGED_BY[case.wire]
        models.append({"id": case.model, "category": kind, "routes": [route], "price": price})
    return json.dumps(
        {
            "surfaces": [{"prefix": "/v1", "dialect": "openai"}],
            "providers": providers,
            "models": models,
            "plans": [{"id": "enterprise"}],
            "billing": {"default_plan": "enterprise", "welcome_credit": 0},
            "tasks": {"webhooks": {"allowed_networks": ["127.0.0.0/8"]}},
        }
    )


@dataclasses.dataclass
class Played:
    """A job that has ended, as its customer saw it."""

    account: Account
    task_id: str
    told: list[tuple[str, dict[str, Any]]]
    """The events of its stream with their ids, from its acceptance until the stream ended."""
    end: dict[str, Any]


@dataclasses.dataclass
class Play:
    """All that was played."""

    gateway: Gateway
    provider: TroubledProvider
    hooks: Hooks
    jobs: Mapping[Case, Played]
    seen: list[Seen]
    """What the provider had seen before it was all ordered once more."""


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory, postgres_url: str, nats_server: RunningServer) -> Iterator[Play]:
    """Everything at once, and its work orders again once it is over."""
    provider, hooks = TroubledProvider(), Hooks()
    directory: Path = tmp_path_factory.mktemp("troubled")
    arguments = ("--nats-url", nats_server.server.url, "--database-url", postgres_url)
    with (
        in_thread(provider.app()) as provider_url,
        in_thread(hooks.app()) as hooks_url,
        gateway(directory, config(provider_url), *arguments, replicas={"tasks": 2}) as running,
    ):
        hurry(postgres_url, [case.model for case in BAD + NEARLY if case.trouble != "rejects"])
        bus = nats_server.server.url
        with concurrent.futures.ThreadPoolExecutor(8) as few:
            accounts = dict(zip(ALL, few.map(lambda _: running.customer(credit_usd="1"), ALL), strict=True))
        with concurrent.futures.ThreadPoolExecutor(len(ALL)) as threads:
            playing = {case: threads.submit(played, accounts[case], case, f"{hooks_url}/hooks", bus) for case in ALL}
            jobs = {case: each.result() for case, each in playing.items()}
        wait_until(lambda: len(hooks.told) >= 2 * len(jobs), timeout_s=PATIENCE_S, what="each hook is called twice")
        wait_until(lambda: not to_stop(postgres_url), timeout_s=PATIENCE_S, what="nothing is to be stopped any more")
        seen = list(provider.seen)
        for case, each in jobs.items():
            order_again(bus, KINDS[case.wire], each.task_id)
        wait_until(lambda: not waiting(bus), timeout_s=PATIENCE_S, what="all orders are read")
        time.sleep(2)  # whoever was woken has looked
        yield Play(gateway=running, provider=provider, hooks=hooks, jobs=jobs, seen=seen)


def hurry(url: str, models: list[str]) -> None:
    """Jobs of these models get seconds."""
    with psycopg.connect(url) as connection:
        connection.execute(
            "CREATE FUNCTION tasks.hurry() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            f" NEW.deadline_us := NEW.created_at_us + {SHORT_S * 1_000_000}; RETURN NEW; END $$"
        )
        names = ", ".join(f"'{each}'" for each in models)
        connection.execute(
            "CREATE TRIGGER hurry BEFORE INSERT ON tasks.tasks FOR EACH ROW"
            f" WHEN (NEW.model IN ({names})) EXECUTE FUNCTION tasks.hurry()"  # type: ignore[arg-type]  # our own names
        )


def played(account: Account, case: Case, hook_url: str, bus: str) -> Played:
    """Orders it, sends copies of the work order, and listens until the end."""
    kind = KINDS[case.wire]
    asked = {
        "image": {"prompt": TEXT},
        "speech": {"input": TEXT, "voice": "alloy", "response_format": "pcm"},
        "video": {"prompt": TEXT, "seconds": "4"},
    }[kind]
    reply = httpx.post(
        f"{account.gateway.base_url}/v1{PATHS[kind]}",
        json={"model": case.model, "webhook_url": hook_url, **asked},
        headers=account.headers | {"prefer": "respond-async"},
        timeout=60,
    )
    assert reply.status_code in (200, 202), reply.text
    task_id = reply.json().get("task_id") or reply.json()["id"]
    order_again(bus, kind, task_id)
    url = f"{account.gateway.base_url}/v1/tasks/{task_id}/events"
    with httpx.stream("GET", url, headers=account.headers, timeout=LONG_S) as stream:
        lines = list(stream.iter_lines())
    ids = [line.removeprefix("id: ") for line in lines if line.startswith("id: ")]
    tasks = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    told = list(zip(ids, tasks, strict=True))
    return Played(account=account, task_id=task_id, told=told, end=account.get(f"/tasks/{task_id}"))


def order_again(bus: str, kind: str, task_id: str) -> None:
    """Ten more copies of a job's work order, none of which the bus takes for one that it has."""

    async def publish() -> None:
        connection = await nats.connect(bus, connect_timeout=PATIENCE_S)
        try:
            order = tasks_pb2.WorkOrder(task_id=task_id).SerializeToString()
            for _ in range(COPIES):
                await connection.publish(f"tollbridge.tasks.v1.run.{kind}", order)
            await connection.flush(PATIENCE_S)  # the server has them; it need not have written them yet
        finally:
            await connection.close()

    asyncio.run(publish())


def waiting(bus: str) -> int:
    """How many work orders nobody has read."""

    async def ask() -> int:
        connection = await nats.connect(bus, connect_timeout=PATIENCE_S)
        try:
            found = await connection.jetstream(timeout=PATIENCE_S).stream_info("TASKS")
            return found.state.messages
        finally:
            await connection.close()

    return asyncio.run(ask())


def to_stop(url: str) -> int:
    """How many ended jobs may run on at their providers."""
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT count(*) FROM tasks.tasks WHERE stop_at_us > 0").fetchone()
    assert row is not None
    return int(row[0])


def settled(play: Play, case: Case, amount: Decimal) -> None:
    """The customer has paid exactly that, by one transfer at most, and nothing is held."""
    it = play.jobs[case]
    found = it.account.settled_credits(timeout_s=60)
    assert (found["total_usage"], found["balance"]) == (amount, 1 - amount)
    assert Decimal(it.account.receipt(it.task_id)["charge"]) == amount
    assert Decimal(it.end["cost"]) == amount
    transfers = it.account.receipt(it.task_id)["transfers"]
    assert len(transfers) == (1 if amount else 0)


@pytest.mark.parametrize("case", GOOD, ids=lambda case: case.model)
def test_a_job_that_its_provider_makes_in_the_end_is_charged_once_and_exactly(play: Play, case: Case) -> None:
    """Whatever went wrong before, and however often it was ordered."""
    assert play.jobs[case].end["status"] == "succeeded"
    settled(play, case, PRICES[case.wire])


@pytest.mark.parametrize("case", BAD, ids=lambda case: case.model)
def test_a_job_that_comes_to_nothing_in_its_time_costs_nothing(play: Play, case: Case) -> None:
    """Refused, broken, hanging or late; also where the provider has made it."""
    end = play.jobs[case].end
    assert end["status"] == "failed"
    code = "provider_rejected" if case.trouble == "rejects" else "deadline_exceeded"
    assert end["error"]["code"] == code
    settled(play, case, Decimal(0))


@pytest.mark.parametrize("case", NEARLY, ids=lambda case: case.model)
def test_a_job_that_is_made_in_the_last_moment_is_charged_if_its_customer_has_it(play: Play, case: Case) -> None:
    """And otherwise not; its provider bills it in either case."""
    end = play.jobs[case].end
    assert end["status"] in ("succeeded", "failed")
    settled(play, case, PRICES[case.wire] if end["status"] == "succeeded" else Decimal(0))
    wait_until(lambda: play.provider.count(case.model, "billed") == 1, timeout_s=30, what="the provider bills it")


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.model)
def test_a_job_ends_once_for_everybody_who_hears_of_it(play: Play, case: Case) -> None:
    """Its stream has one end, its webhook one event, and work orders that come afterwards change nothing."""
    it = play.jobs[case]
    ended = [each for each in it.told if each[1]["status"] not in ("pending", "running")]
    assert ended == [it.told[-1]]
    last, end = it.told[-1]
    assert (end["status"], end["cost"]) == (it.end["status"], it.end["cost"])
    hooks = [(event_id, task["status"]) for event_id, task in play.hooks.told if task["id"] == it.task_id]
    assert (len(hooks), set(hooks)) == (2, {(hooks[0][0], end["status"])})
    url = f"{play.gateway.base_url}/v1/tasks/{it.task_id}/events"
    since = httpx.get(url, headers=it.account.headers | {"last-event-id": last}, timeout=20)
    assert since.status_code == 204


@pytest.mark.parametrize("wire", WIRES)
def test_ten_copies_of_a_work_order_are_one_call_of_a_provider(play: Play, wire: str) -> None:
    """With two workers, who both are woken by them."""
    model = Case(trouble="fine", wire=wire).model
    assert [play.provider.count(model, what) for what in ("asked", "taken", "billed")] == [1, 1, 1]


@pytest.mark.parametrize("wire", WIRES)
def test_an_order_whose_answer_was_not_heard_is_made_once_where_its_key_is_heeded(play: Play, wire: str) -> None:
    """It comes again under the same key."""
    model = Case(trouble="takes_and_hangs_once", wire=wire).model
    assert play.provider.count(model, "asked") > play.provider.count(model, "taken") == 1
    assert play.provider.count(model, "billed") == 1


@pytest.mark.parametrize("wire", FETCHED)
def test_what_was_made_and_can_not_be_fetched_at_once_is_not_made_again(play: Play, wire: str) -> None:
    """Also where it can't be asked after, and until the job's time is over."""
    for trouble in ("misses", "breaks_at_download", "hangs_at_download"):
        assert play.provider.count(Case(trouble=trouble, wire=wire).model, "taken") == 1


@pytest.mark.parametrize("wire", WIRES)
def test_what_a_provider_makes_too_late_is_billed_to_us_alone(play: Play, wire: str) -> None:
    """Its bill comes, and nobody is charged for it."""
    case = Case(trouble="late", wire=wire)
    wait_until(lambda: play.provider.count(case.model, "billed") == 1, timeout_s=30, what="the provider bills it")
    settled(play, case, Decimal(0))


@pytest.mark.parametrize("wire", JOBS_OF_THEIR_OWN)
@pytest.mark.parametrize("trouble", LEFT_THERE)
def test_a_job_that_nobody_waits_for_any_more_is_submitted_once_and_stopped(
    play: Play, trouble: str, wire: str
) -> None:
    """Its provider is told."""
    model = Case(trouble=trouble, wire=wire).model
    assert [play.provider.count(model, what) for what in ("taken", "cancelled")] == [1, 1]


def test_work_orders_of_ended_jobs_reach_no_provider(play: Play) -> None:
    """Ten for each came after the end of all."""
    later = [each for each in play.provider.seen[len(play.seen) :] if each.what != "billed"]
    assert later == []


def test_the_books_add_up_after_all_of_it(play: Play) -> None:
    """What was charged is what was made in time."""
    report = play.gateway.verify()
    assert report["clean"]
