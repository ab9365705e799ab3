"""What passes by itself fails no job that has time; what would go on for ever fails after a bounded number of tries."""

import pytest

from chassis.errors import Code, TollbridgeError
from services.tasks import jobs
from services.tasks.work.workshop import Workshop
from tests.unit.tasks.stage import CHARGE_PER_IMAGE, TasksApi, usage_of
from tollbridge.tasks.v1 import tasks_pb2 as pb
from tollbridge.usage.v1 import usage_pb2
from upstream.client import HttpCall
from upstream.outcome import AttemptFailed, Outcome
from upstream.sandbox.provider import Sandbox


@pytest.mark.parametrize("code", [Code.OVERLOADED, Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED])
async def test_a_job_that_nobody_has_room_for_waits_as_often_as_it_takes(
    api: TasksApi, monkeypatch: pytest.MonkeyPatch, code: Code
):
    """Busy accounts, or a service that is away, say nothing of the job: it is run once there is room."""
    monkeypatch.setattr(jobs, "MAX_STRIKES", 2)
    api.process.router.refusal = TollbridgeError(code, "Not now.", retry_after_s=1)
    task = await api.create()
    for _ in range(5):
        pause_s = await api.process.run()
        assert pause_s is not None
        assert pause_s <= 1.5, "whoever waits longest has no longer pauses than others"
    api.process.router.refusal = None
    assert await api.process.run() is None
    done = await api.get(task.id)
    assert (done.status, done.charge_nano_usd) == (pb.TASK_STATUS_SUCCEEDED, CHARGE_PER_IMAGE)


async def test_a_provider_over_its_limit_is_a_busy_one(api: TasksApi, monkeypatch: pytest.MonkeyPatch):
    """A 429 at every account is waited for, with growing pauses."""
    monkeypatch.setattr(jobs, "MAX_STRIKES", 2)
    monkeypatch.setattr("services.tasks.work.workshop.MAX_ATTEMPTS", 1)
    monkeypatch.setattr(api.process.worker, "_chance", lambda: 0.5)
    task = await api.create(prompt='x\n#sandbox {"status": 429}')
    pauses = [await api.process.run() for _ in range(4)]
    assert None not in pauses
    assert pauses == sorted(pauses)
    assert (await api.get(task.id)).status == pb.TASK_STATUS_PENDING


async def test_a_job_that_waited_for_room_until_its_time_was_over_fails_free_of_charge(api: TasksApi):
    """Its deadline bounds the wait."""
    api.process.router.refusal = TollbridgeError(Code.OVERLOADED, "All busy.", retry_after_s=1)
    task = await api.create()
    assert await api.process.run() is not None
    await api.process.sql("UPDATE tasks.tasks SET deadline_us = 1")
    assert await api.process.sweeper.sweep() == 1
    await failed_free(api, task.id, code=Code.DEADLINE_EXCEEDED)


async def test_what_nobody_foresaw_is_tried_again_with_growing_pauses_and_not_for_ever(
    api: TasksApi, monkeypatch: pytest.MonkeyPatch
):
    """A fault in our code, or in what it stands on, gives the job back at once instead of to its lease."""
    monkeypatch.setattr(Workshop, "make", broken)
    monkeypatch.setattr(api.process.worker, "_chance", lambda: 0.5)
    task = await api.create()
    pauses = [await api.process.run() for _ in range(jobs.MAX_STRIKES)]
    waits = [pause_s for pause_s in pauses if pause_s is not None]
    assert len(waits) == jobs.MAX_STRIKES - 1
    assert waits == sorted(waits)
    assert sum(waits) > 300, "an outage of minutes passes"
    await failed_free(api, task.id, code=Code.INTERNAL)


async def test_what_broke_once_is_made_and_charged_once(api: TasksApi, monkeypatch: pytest.MonkeyPatch):
    """As if nothing had been."""
    with monkeypatch.context() as patch:
        patch.setattr(Workshop, "make", broken)
        task = await api.create()
        assert await api.process.run() is not None
    assert await api.process.run() is None
    (record,) = usage_of(await api.process.publish())
    assert (record.request_id, record.charge_nano_usd) == (task.id, CHARGE_PER_IMAGE)


async def test_a_store_that_breaks_in_an_unforeseen_way_costs_one_call(api: TasksApi, monkeypatch: pytest.MonkeyPatch):
    """The provider has been paid: it is not asked again."""

    async def put(_file_id: str, _data: bytes) -> None:
        raise RuntimeError("nobody foresaw this")

    monkeypatch.setattr(api.process.results, "put", put)
    task = await api.create()
    assert await api.process.run() is None
    assert len(api.process.router.decided) == 1
    await failed_free(api, task.id, code=Code.PROVIDER_ERROR)


async def test_a_job_whose_worker_dies_each_time_fails_in_the_end(api: TasksApi):
    """With growing pauses between its victims, and free of charge."""
    task = await api.create()
    for strikes in range(jobs.MAX_STRIKES):
        job = await api.process.claimed()
        assert job is not None
        assert job.strikes == strikes
        await api.process.sql("UPDATE tasks.tasks SET lease_until_us = 1")
        assert await api.process.sweeper.sweep() == 1
    await failed_free(api, task.id, code=Code.INTERNAL)


async def test_a_job_that_waited_often_has_as_many_tries_as_any_other(api: TasksApi):
    """Claims that found no room are not held against it when its worker dies."""
    api.process.router.refusal = TollbridgeError(Code.OVERLOADED, "All busy.", retry_after_s=1)
    task = await api.create()
    for _ in range(jobs.MAX_STRIKES + 1):
        assert await api.process.run() is not None
    assert await api.process.claimed() is not None
    await api.process.sql("UPDATE tasks.tasks SET lease_until_us = 1")
    assert await api.process.sweeper.sweep() == 1
    assert (await api.get(task.id)).status == pb.TASK_STATUS_PENDING


@pytest.mark.parametrize(("outcome", "is_same"), [(Outcome.TIMED_OUT, True), (Outcome.SERVER_ERROR, False)])
async def test_an_order_whose_answer_was_not_heard_is_the_same_order_again(
    api: TasksApi, monkeypatch: pytest.MonkeyPatch, outcome: Outcome, is_same: bool
):
    """The provider may have made it, and hands it out to whoever has the key; after a failure it is another order."""
    keys: list[str] = []

    async def send(_: Sandbox, call: HttpCall, *, timeouts: object) -> None:
        keys.append(call.headers["idempotency-key"])
        raise AttemptFailed(outcome, f"after {timeouts}")

    monkeypatch.setattr(Sandbox, "send", send)
    await api.create()
    assert await api.process.run() is not None
    assert await api.process.run() is not None
    assert (keys[0] == keys[-1]) is is_same


async def broken(*_: object) -> None:
    raise RuntimeError("nobody foresaw this")


async def failed_free(api: TasksApi, task_id: str, *, code: Code) -> None:
    done = await api.get(task_id)
    assert (done.status, done.error_code, done.charge_nano_usd) == (pb.TASK_STATUS_FAILED, code.value, 0)
    (record,) = usage_of(await api.process.publish())
    assert (record.kind, record.charge_nano_usd, record.closes_hold) == (usage_pb2.USAGE_KIND_VOID, 0, True)
