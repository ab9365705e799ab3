"""A worker or a database that stood still: that is no silence of others, and a worker's slots are no longer its own."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable

import pytest

from chassis import db
from chassis.errors import Code, TollbridgeError
from services.tasks import jobs, owners
from services.tasks.jobs import Job
from services.tasks.work import claim_store, time_left, workshop
from services.tasks.work.listening import BROKEN_S
from services.tasks.work.sweeper import SWEEP_S
from tests.unit.tasks.stage import TasksApi, TasksProcess
from tests.unit.tasks.test_submissions import FarProvider, far, started
from tollbridge.router.v1 import router_pb2
from tollbridge.tasks.v1 import tasks_pb2 as pb

__all__ = ["far"]
LAPSES = "UPDATE tasks.tasks SET lease_until_us = 1"
STOP_S = 2 * jobs.LEASE_S
FOREVER = 'x\n#sandbox {"first_byte_ms": 60000}'


async def sweeps_for(process: TasksProcess, seconds: float) -> int:
    """Looks as its loop does, for so long; how many jobs that found."""
    until_s, found = process.clock.now_s + seconds, 0
    while process.clock.now_s < until_s:
        found += await process.sweeper.sweep()
        process.clock.now_s += SWEEP_S
    return found


async def renewed(process: TasksProcess, job: Job) -> bool:
    async with db.transaction(process.pool) as conn:
        return await claim_store.renew(conn, job.order.id, claim_number=job.claims)


async def stands_still(process: TasksProcess, _: pytest.MonkeyPatch) -> None:
    """Our own process: suspended, starved, or asleep with its machine."""
    process.clock.now_s += STOP_S


async def database_stands_still(process: TasksProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """PostgreSQL, in the middle of a look."""
    look = claim_store.lapsed

    async def late(conn: db.Connection, *, limit: int) -> list[Job]:
        process.clock.now_s += STOP_S
        return await look(conn, limit=limit)

    with monkeypatch.context() as patch:
        patch.setattr(claim_store, "lapsed", late)
        assert await process.sweeper.sweep() == 0


async def database_refuses(process: TasksProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not answer within its time, and then it does."""

    async def refuses(*_: object, **__: object) -> list[Job]:
        process.clock.now_s += BROKEN_S / 2
        broke.set()
        raise TollbridgeError(Code.UNAVAILABLE, "the database is away")

    broke = asyncio.Event()
    with monkeypatch.context() as patch:
        patch.setattr(claim_store, "overdue", refuses)
        sweeping = asyncio.create_task(process.sweeper.run())
        await asyncio.wait_for(broke.wait(), 20)
        sweeping.cancel()
        await asyncio.gather(sweeping, return_exceptions=True)


@pytest.mark.parametrize("stop", [stands_still, database_stands_still, database_refuses])
async def test_after_a_stop_every_worker_has_a_lease_to_renew_its_claims(
    api: TasksApi, monkeypatch: pytest.MonkeyPatch, stop: Callable[[TasksProcess, pytest.MonkeyPatch], object]
):
    """Who does keeps its job, without a strike; who does not in that time has died."""
    lives, dead = await api.create(), await api.create()
    claims = [await api.process.claimed() for _ in range(2)]
    assert await api.process.sweeper.sweep() == 0
    await api.process.sql(LAPSES)
    await stop(api.process, monkeypatch)
    assert await sweeps_for(api.process, jobs.LEASE_S - SWEEP_S) == 0
    (living,) = [job for job in claims if job is not None and job.order.id == lives.id]
    assert await renewed(api.process, living)
    assert await sweeps_for(api.process, 2 * SWEEP_S + 1) == 1
    assert (await api.get(lives.id)).status == pb.TASK_STATUS_RUNNING
    assert (await api.get(dead.id)).status == pb.TASK_STATUS_PENDING


async def test_after_a_stop_only_jobs_that_nobody_runs_are_out_of_time(api: TasksApi):
    """Who runs one may have its result in hand."""
    runs = await api.create()
    assert await api.process.claimed() is not None
    waits = await api.create()
    await api.process.sql(LAPSES + ", deadline_us = created_at_us")
    api.process.clock.now_s += STOP_S
    assert await api.process.sweeper.sweep() == 1
    assert (await api.get(waits.id)).status == pb.TASK_STATUS_FAILED
    assert (await api.get(runs.id)).status == pb.TASK_STATUS_RUNNING


@pytest.fixture
def _quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owners, "LOOK_S", 0.01)


@contextlib.asynccontextmanager
async def stating(process: TasksProcess) -> AsyncIterator[None]:
    """The process tells router what runs."""
    loop = asyncio.create_task(process.routing.run_stating(cut=process.workshop.cut))
    try:
        await until(lambda: bool(process.router.stated))
        yield
    finally:
        loop.cancel()
        await asyncio.gather(loop, return_exceptions=True)


async def until(holds: Callable[[], bool]) -> None:
    for _ in range(2000):
        if holds():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never came to be")


@pytest.mark.usefixtures("_quick_looks")
async def test_a_statement_that_failed_is_made_again_after_a_second(api: TasksApi):
    """Slots outlive few of them."""
    router = api.process.router
    async with stating(api.process):
        router.deaf_to_statements = 1
        api.process.clock.now_s += owners.STATE_EVERY_S
        await until(lambda: not router.deaf_to_statements)
        assert len(router.stated) == 1
        api.process.clock.now_s += owners.STATE_AGAIN_S
        await until(lambda: len(router.stated) == 2)


@pytest.mark.usefixtures("_quick_looks")
@pytest.mark.parametrize("by_pieces", [False, True], ids=["at once", "by pieces"])
async def test_a_call_on_a_slot_that_lapsed_in_a_stop_is_ended_and_its_job_given_back(
    api: TasksApi, monkeypatch: pytest.MonkeyPatch, by_pieces: bool
):
    """Somebody else calls there by now. It is no fault of the job's, and router knows at once what still runs."""
    monkeypatch.setattr(workshop, "COLLECT_S", 0.05)
    task = await api.create(prompt=FOREVER)
    router = api.process.router
    async with stating(api.process):
        running = asyncio.create_task(api.process.run())
        await until(lambda: bool(router.decided))
        if by_pieces:
            router.deaf_to_statements, api.process.clock.step_s = 1000, STOP_S / owners.AWAKE_LOOKS
        else:
            said = len(router.stated)
            api.process.clock.now_s += STOP_S
            await until(lambda: len(router.stated) > said)
        assert await asyncio.wait_for(running, 20) is not None
    await api.process.routing.close()
    (end,) = router.finished
    assert (end.attempt_id, end.outcome) == (router.decided[0].attempt_id, router_pb2.OUTCOME_CANCELLED)
    assert (await api.get(task.id)).status == pb.TASK_STATUS_PENDING
    again = await api.process.claimed()
    assert again is not None
    assert (again.strikes, again.failures) == (0, 0)


@pytest.mark.usefixtures("_quick_looks")
async def test_an_answer_that_came_in_the_stop_is_taken(api: TasksApi):
    """Nothing of it runs at the provider any more, and it would be paid for twice."""
    task = await api.create(prompt='x\n#sandbox {"first_byte_ms": 300}')
    async with stating(api.process):
        running = asyncio.create_task(api.process.run())
        await until(lambda: bool(api.process.router.decided))
        api.process.clock.now_s += STOP_S
        assert await asyncio.wait_for(running, 20) is None
    assert (await api.get(task.id)).status == pb.TASK_STATUS_SUCCEEDED
    assert len(api.process.router.decided) == 1


@pytest.mark.usefixtures("_quick_looks")
@pytest.mark.parametrize("is_deaf", [False, True], ids=["its provider works on it", "router was away"])
async def test_what_no_stop_has_put_on_others_slots_runs_on(
    api: TasksApi, far: FarProvider, monkeypatch: pytest.MonkeyPatch, is_deaf: bool
):
    """A provider's own job runs there with us or without; and what router can't give to others, nobody has."""
    monkeypatch.setattr(workshop, "COLLECT_S", 0.0)
    task = await api.create()
    router = api.process.router
    async with stating(api.process):
        if is_deaf:
            monkeypatch.setattr(workshop.Workshop, "cut", lambda _: pytest.fail("it was awake"))
        running = await started(api, far)
        if is_deaf:
            for _ in range(6):
                router.deaf_to_statements = 1
                api.process.clock.now_s += owners.STATE_EVERY_S
                await until(lambda: not router.deaf_to_statements)
        else:
            said = len(router.stated)
            api.process.clock.now_s += STOP_S
            await until(lambda: len(router.stated) > said)
        far.is_ready = True
        assert await asyncio.wait_for(running, 20) is None
    assert (await api.get(task.id)).status == pb.TASK_STATUS_SUCCEEDED
    assert len(router.decided) == 1


async def test_a_result_that_came_in_a_stop_goes_before_a_deadline_that_passed_in_it(api: TasksApi):
    """The provider has been paid for it; its customer has it, and pays."""
    task = await api.create(prompt='x\n#sandbox {"first_byte_ms": 500}')
    await api.process.sql(f"UPDATE tasks.tasks SET deadline_us = {time.time_ns() // 1000 + 800_000}")
    running = asyncio.create_task(api.process.run())
    await until(lambda: bool(api.process.router.decided))
    time.sleep(1.0 + time_left.LATE_S)  # noqa: ASYNC251  this is the stop
    assert await asyncio.wait_for(running, 20) is None
    assert (await api.get(task.id)).status == pb.TASK_STATUS_SUCCEEDED
