"""The worker on a real PostgreSQL: one end, one settlement, whatever dies, lags or is doubled."""

import asyncio
import dataclasses
import time
from collections.abc import Callable

import pytest

from chassis import db, ids
from chassis.errors import Code, TollbridgeError
from services.tasks import jobs, store
from services.tasks.making import image_maker, kinds
from services.tasks.work import worker
from tests.unit.tasks.stage import CHARGE_PER_IMAGE, PRICE, TasksApi, TasksProcess, usage_of
from tollbridge.router.v1 import router_pb2
from tollbridge.tasks.v1 import tasks_pb2 as pb
from tollbridge.usage.v1 import usage_pb2
from upstream.openai import images


async def test_a_job_that_succeeds_is_charged_by_what_was_made(api: TasksApi):
    """At the price of acceptance, under the task's own id, closing its hold."""
    task = await api.create(n=2)
    assert await api.process.run() is None
    done = await api.get(task.id)
    assert (done.status, done.charge_nano_usd) == (pb.TASK_STATUS_SUCCEEDED, 2 * CHARGE_PER_IMAGE)
    (record,) = usage_of(await api.process.publish())
    assert record.kind == usage_pb2.USAGE_KIND_CHARGE
    assert (record.request_id, record.charge_nano_usd) == (task.id, 2 * CHARGE_PER_IMAGE)
    assert (record.price_version, record.provider_cost_nano_usd) == (PRICE.id, 30_000_000)
    assert record.units.images == 2
    assert record.closes_hold
    assert record.spender == api.process.spender
    (decided,) = api.process.router.decided
    assert (decided.price_version, decided.spender, decided.operation) == (PRICE.id, api.process.spender, "image")


async def test_a_free_job_runs_without_a_hold(api: TasksApi):
    """Nothing is held, and its record closes nothing."""
    await api.create(model="free")
    assert await api.process.run() is None
    assert api.process.billing.holds == {}
    (record,) = usage_of(await api.process.publish())
    assert (record.charge_nano_usd, record.hold_id, record.closes_hold) == (0, "", False)


async def test_a_hold_outlives_its_job_by_a_day_as_soon_as_the_job_is_there(api: TasksApi):
    """However long it waits for a worker, a late settlement still finds its money."""
    task = await api.create()
    (deadline_us,) = api.process.billing.deadlines.values()
    assert (deadline_us - task.created_at_us) / 1e6 > kinds.IMAGE.time_to_live_s + 20 * 3600


async def test_what_was_held_for_a_task_that_never_came_to_be_is_free_in_minutes(
    api: TasksApi, monkeypatch: pytest.MonkeyPatch
):
    """Its process died between the hold and the task, or nobody waited any more. Whoever comes again is served."""

    async def dies(*_: object, **__: object) -> bool:
        raise TollbridgeError(Code.DEADLINE_EXCEEDED, "as good as dead")

    task_id, billing = str(ids.uuid7()), api.process.billing
    with monkeypatch.context() as patch:
        patch.setattr(store, "insert", dies)
        with pytest.raises(TollbridgeError):
            await api.create(task_id=task_id)
    ((hold_id, deadline_us),) = billing.deadlines.items()
    assert deadline_us / 1e6 - time.time() <= 120
    billing.over.add(hold_id)
    await api.create(task_id=task_id)
    assert await api.process.run() is None
    (record,) = usage_of(await api.process.publish())
    assert record.hold_id in billing.holds
    assert record.hold_id != hold_id


async def test_a_finished_attempt_is_told_to_router(api: TasksApi):
    """So that its slot comes back at once."""
    await api.create()
    await api.process.run()
    await api.process.routing.close()
    (outcome,) = api.process.router.finished
    assert outcome.outcome == router_pb2.OUTCOME_SUCCESS
    assert outcome.attempt_id == api.process.router.decided[0].attempt_id


async def test_an_order_that_comes_twice_runs_once(api: TasksApi):
    """Also when both come at the same time."""
    await api.create()
    await asyncio.gather(api.process.run(), api.process.run())
    assert await api.process.run() is None
    assert len(api.process.router.decided) == 1
    assert len(usage_of(await api.process.publish())) == 1


async def test_a_provider_that_rejects_ends_the_job_with_its_words(api: TasksApi):
    """A 400 of the provider is the customer's to know, and costs nothing."""
    task = await api.create(prompt='x\n#sandbox {"status": 400, "message": "too naughty"}')
    assert await api.process.run() is None
    done = await api.get(task.id)
    assert (done.status, done.error_code) == (pb.TASK_STATUS_FAILED, Code.PROVIDER_REJECTED.value)
    assert "too naughty" in done.error_message
    (record,) = usage_of(await api.process.publish())
    assert (record.kind, record.ended) == (usage_pb2.USAGE_KIND_VOID, usage_pb2.ENDED_UPSTREAM_FAILED)
    assert record.closes_hold


async def test_failed_attempts_go_on_to_the_next_account(api: TasksApi):
    """Router hears of each; in the end the job is given back with a pause."""
    task = await api.create(prompt='x\n#sandbox {"status": 503}')
    pause_s = await api.process.run()
    assert pause_s is not None
    assert [len(decided.tried) for decided in api.process.router.decided] == [0, 1, 2, 3]
    assert (await api.get(task.id)).status == pb.TASK_STATUS_PENDING


async def test_a_job_that_keeps_failing_fails_in_the_end(api: TasksApi, monkeypatch: pytest.MonkeyPatch):
    """After a bounded number of claims, at nobody's cost."""
    monkeypatch.setattr(jobs, "MAX_STRIKES", 2)
    task = await api.create(prompt='x\n#sandbox {"status": 500}')
    assert await api.process.run() is not None
    assert await api.process.run() is None
    done = await api.get(task.id)
    assert (done.status, done.error_code) == (pb.TASK_STATUS_FAILED, Code.PROVIDER_ERROR.value)
    assert [record.kind for record in usage_of(await api.process.publish())] == [usage_pb2.USAGE_KIND_VOID]


async def test_a_provider_that_hangs_costs_nothing(api: TasksApi, monkeypatch: pytest.MonkeyPatch):
    """The job's own time ends it."""
    monkeypatch.setitem(kinds.KINDS, "image", dataclasses.replace(kinds.IMAGE, time_to_live_s=0.3))
    task = await api.create(prompt='x\n#sandbox {"first_byte_ms": 20000}')
    assert await api.process.run() is None
    done = await api.get(task.id)
    assert (done.status, done.error_code) == (pb.TASK_STATUS_FAILED, Code.DEADLINE_EXCEEDED.value)
    (record,) = usage_of(await api.process.publish())
    assert (record.kind, record.charge_nano_usd, record.closes_hold) == (usage_pb2.USAGE_KIND_VOID, 0, True)


async def test_when_every_account_is_busy_the_job_waits_as_long_as_router_says(api: TasksApi):
    """It is given back, not failed."""
    api.process.router.refusal = TollbridgeError(Code.OVERLOADED, "All busy.", retry_after_s=7)
    task = await api.create()
    pause_s = await api.process.run()
    assert pause_s is not None
    assert 7 <= pause_s <= 10.5, "others of its kind come a little earlier or later"
    api.process.router.refusal = None
    assert await api.process.run() is None
    assert (await api.get(task.id)).status == pb.TASK_STATUS_SUCCEEDED


async def test_a_result_store_that_is_away_for_a_moment_costs_no_second_call(api: TasksApi):
    """What the provider has made is not thrown away."""
    api.process.results.fails = 2
    task = await api.create()
    assert await api.process.run() is None
    assert len(api.process.router.decided) == 1
    assert (await api.get(task.id)).status == pb.TASK_STATUS_SUCCEEDED


@pytest.mark.usefixtures("quick_lease")
async def test_a_store_that_stays_away_costs_one_call_and_the_customer_nothing(
    api: TasksApi, monkeypatch: pytest.MonkeyPatch
):
    """The picture is not painted again; in the end the job fails, and the record says what it cost us."""
    monkeypatch.setattr(worker, "INSIST_S", 0.3)
    monkeypatch.setattr(worker, "PAUSE_S", 0.02)
    api.process.results.fails = 10_000
    task = await api.create(n=2)
    assert await api.process.run() is None
    assert len(api.process.router.decided) == 1
    assert api.process.results.fails < 9_998, "it was tried again"
    await ended_as_our_loss(api, task.id, cost_nano_usd=2 * PRICE.cost.per_image)


async def test_a_store_that_is_away_past_the_jobs_time_still_gets_its_picture(
    api: TasksApi, monkeypatch: pytest.MonkeyPatch
):
    """The provider has done its work in time; only the storing was late."""
    monkeypatch.setattr(worker, "PAUSE_S", 0.3)
    monkeypatch.setitem(kinds.KINDS, "image", dataclasses.replace(kinds.IMAGE, time_to_live_s=0.5))
    api.process.results.fails = 3
    task = await api.create()
    assert await api.process.run() is None
    assert (await api.get(task.id)).status == pb.TASK_STATUS_SUCCEEDED


@pytest.mark.parametrize("what", ["file", "answer"])
async def test_a_result_too_large_to_be_kept_is_painted_once_and_free(
    api: TasksApi, monkeypatch: pytest.MonkeyPatch, what: str
):
    """Whether one picture is too large or the whole answer: no other account is paid for the same."""
    if what == "file":
        monkeypatch.setattr(image_maker, "MAX_FILE_BYTES", 16)
    else:
        monkeypatch.setattr(images, "MAX_ANSWER_BYTES", 16)
    task = await api.create()
    assert await api.process.run() is None
    assert len(api.process.router.decided) == 1
    await ended_as_our_loss(api, task.id, cost_nano_usd=PRICE.cost.per_image)


async def ended_as_our_loss(api: TasksApi, task_id: str, *, cost_nano_usd: int) -> None:
    done = await api.get(task_id)
    assert (done.status, done.charge_nano_usd) == (pb.TASK_STATUS_FAILED, 0)
    (record,) = usage_of(await api.process.publish())
    assert (record.kind, record.ended) == (usage_pb2.USAGE_KIND_VOID, usage_pb2.ENDED_GATEWAY_FAILED)
    assert (record.charge_nano_usd, record.provider_cost_nano_usd) == (0, cost_nano_usd)
    assert record.provider_account_id == "sandbox-0"
    assert record.closes_hold


@pytest.mark.usefixtures("quick_lease")
async def test_a_running_job_that_is_cancelled_stops_and_costs_nothing(api: TasksApi):
    """The heartbeat finds the claim gone; what the provider still does is nobody's charge."""
    task = await api.create(prompt='x\n#sandbox {"first_byte_ms": 20000}')
    running = asyncio.create_task(api.process.run())
    await status_becomes(api, task.id, pb.TASK_STATUS_RUNNING)
    request = pb.CancelTaskRequest(task_id=task.id, customer_id=api.customer_id)
    await api.call("CancelTask", request, pb.CancelTaskResponse)
    assert await asyncio.wait_for(running, 15) is None  # the provider takes 20
    assert (await api.get(task.id)).status == pb.TASK_STATUS_CANCELLED
    assert [record.kind for record in usage_of(await api.process.publish())] == [usage_pb2.USAGE_KIND_VOID]


@pytest.mark.usefixtures("quick_lease")
async def test_the_job_of_a_worker_that_died_is_taken_up_and_charged_once(
    api: TasksApi, new_process: Callable[[], TasksProcess]
):
    """Its lease lapses, the sweeper orders it again, another runs it; the dead one's claim is worth nothing."""
    task = await api.create()
    dead = await api.process.claimed()
    assert dead is not None
    other = new_process()
    assert await other.run() is None, "a live claim is respected"
    assert (await api.get(task.id)).status == pb.TASK_STATUS_RUNNING
    await api.process.publish()
    for _ in range(200):
        if await other.sweeper.sweep():
            break
        await asyncio.sleep(0.02)
    assert [letter.kind for letter in await api.process.publish()] == ["run"]
    assert await other.run() is None
    assert (await api.get(task.id)).status == pb.TASK_STATUS_SUCCEEDED
    assert await api.process.ends.fail(dead, code=Code.INTERNAL, message="too late") is None
    (record,) = usage_of(await api.process.publish())
    assert (record.kind, record.spender) == (usage_pb2.USAGE_KIND_CHARGE, other.spender)


@pytest.mark.usefixtures("quick_lease")
async def test_a_job_that_comes_back_to_its_own_worker_is_that_claim_s_alone(api: TasksApi):
    """After a silence of the database the same process may claim it anew before it knows that it has lost it."""
    task = await api.create(prompt='x\n#sandbox {"first_byte_ms": 20000}')
    running = []
    for _ in range(2):
        job = await api.process.claimed()
        assert job is not None
        running.append(asyncio.create_task(api.process.worker.run(job)))
        await asyncio.sleep(0)
        if len(running) == 1:
            await api.process.sql("UPDATE tasks.tasks SET status = 'pending'")
    assert await asyncio.wait_for(running[0], 20) is None
    await api.process.ends.cancel(task.id)
    api.process.worker.stop(task.id)
    assert await asyncio.wait_for(running[1], 20) is None


async def test_a_worker_that_stops_gives_its_jobs_back(api: TasksApi, new_process: Callable[[], TasksProcess]):
    """Another one need not wait for the lease."""
    task = await api.create(prompt='x\n#sandbox {"first_byte_ms": 20000}')
    shift = api.process.shift()
    working = asyncio.create_task(shift.work())
    await status_becomes(api, task.id, pb.TASK_STATUS_RUNNING)
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)  # as the process does: a claim under way is given back, too
    await shift.close()
    assert (await api.get(task.id)).status == pb.TASK_STATUS_PENDING
    assert await new_process().claimed() is not None


async def test_a_job_whose_time_is_over_fails_without_a_worker(api: TasksApi):
    """The sweeper ends it and its hold comes back."""
    task = await api.create()
    async with db.transaction(api.process.pool) as conn:
        await conn.execute("UPDATE tasks.tasks SET deadline_us = created_at_us WHERE id = %s", (task.id,))
    assert await api.process.run() is None
    assert await api.process.sweeper.sweep() == 1
    done = await api.get(task.id)
    assert (done.status, done.error_code) == (pb.TASK_STATUS_FAILED, Code.DEADLINE_EXCEEDED.value)
    (record,) = usage_of(await api.process.publish())
    assert record.ended == usage_pb2.ENDED_GATEWAY_FAILED


async def test_a_job_whose_time_is_over_while_its_result_is_stored_is_left_to_its_worker(api: TasksApi):
    """The provider has done its work, and its worker is alive."""
    task = await api.create()
    job = await api.process.claimed()
    assert job is not None
    await api.process.sql("UPDATE tasks.tasks SET deadline_us = created_at_us")
    assert await api.process.sweeper.sweep() == 0
    await api.process.sql("UPDATE tasks.tasks SET lease_until_us = 1")
    assert await api.process.sweeper.sweep() == 1
    assert (await api.get(task.id)).error_code == Code.DEADLINE_EXCEEDED.value


async def test_a_settlement_stays_in_the_outbox_until_billing_has_it(api: TasksApi, monkeypatch: pytest.MonkeyPatch):
    """Published again when the bus lost it, gone once it is confirmed."""
    monkeypatch.setattr("services.tasks.outbox.REPUBLISH_AFTER_S", 0.0)
    task = await api.create()
    await api.process.run()
    assert len(usage_of(await api.process.publish())) == 1
    assert await api.process.outbox.confirm_once() == 1
    assert len(usage_of(await api.process.publish())) == 1
    api.process.billing.known.add((task.id, usage_pb2.USAGE_KIND_CHARGE))
    assert await api.process.outbox.confirm_once() == 0
    assert await api.process.publish() == []


async def status_becomes(api: TasksApi, task_id: str, status: int) -> None:
    for _ in range(200):
        if (await api.get(task_id)).status == status:
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it never got there")
