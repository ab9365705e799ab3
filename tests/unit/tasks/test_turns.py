"""Whose turn it is: no customer's heap of jobs keeps another customer's few waiting."""

import asyncio
import uuid

import pytest

from chassis import db
from services.tasks.jobs import Job
from services.tasks.work import claim_store
from tests.unit.tasks.stage import TasksApi, TasksProcess
from tollbridge.tasks.v1 import tasks_pb2 as pb

_HEAP = """
    INSERT INTO tasks.tasks (id, customer_id, kind, model, body, fingerprint, price_version, hold_id, hold_nano_usd,
        created_at_us, deadline_us)
    SELECT gen_random_uuid(), %s, 'image', 'pictures', '{"prompt": "x"}', '', 'p', gen_random_uuid(), 0, 1, 9e15::bigint
    FROM generate_series(1, %s)
"""


async def heap(process: TasksProcess, *, count: int) -> str:
    """So many jobs of one customer that wait."""
    customer_id = str(uuid.uuid4())
    async with db.transaction(process.pool) as conn:
        await conn.execute(_HEAP, (customer_id, count))
    return customer_id


async def done(process: TasksProcess, job: Job) -> None:
    async with db.transaction(process.pool) as conn:
        await conn.execute(
            "UPDATE tasks.tasks SET status = 'cancelled', finished_at_us = 1 WHERE id = %s", (job.order.id,)
        )


@pytest.mark.parametrize("at_once", [1, 8])
async def test_the_few_jobs_of_one_customer_are_done_in_the_first_tenth(process: TasksProcess, at_once: int):
    """990 jobs of one, then 10 of another."""
    await heap(process, count=990)
    small = await heap(process, count=10)
    running: list[Job] = []
    order: list[str] = []
    while order.count(small) < 10:
        while len(running) < at_once:
            job = await claim(process)
            assert job is not None
            running.append(job)
        ended = running.pop(0)
        order.append(ended.order.customer_id)
        await done(process, ended)
    assert len(order) <= 100


async def test_who_has_more_running_waits(process: TasksProcess):
    """Slow jobs count: the third customer comes before the second job of the first."""
    for _ in range(3):
        await heap(process, count=3)
    first = [await claim(process) for _ in range(3)]
    assert len({job.order.customer_id for job in first if job}) == 3


async def test_no_job_is_claimed_twice(process: TasksProcess):
    """Many workers at once get each a job, as long as there are some."""
    await heap(process, count=10)
    found = await asyncio.gather(*(claim(process) for _ in range(14)))
    while (late := await claim(process)) is not None:  # one that was passed over while another held it
        found.append(late)
    ids = [job.order.id for job in found if job is not None]
    assert len(ids) == len(set(ids)) == 10


async def claim(process: TasksProcess) -> Job | None:
    async with db.transaction(process.pool) as conn:
        return await claim_store.claim_next(conn, "image", spender="x")


async def test_a_job_that_was_given_back_is_due_after_its_pause(process: TasksProcess):
    """And others go before it meanwhile."""
    await heap(process, count=2)
    first = await claim(process)
    assert first is not None
    async with db.transaction(process.pool) as conn:
        assert await claim_store.release(conn, first.order.id, claim_number=first.claims, pause_s=60)
    second = await claim(process)
    assert second is not None
    assert second.order.id != first.order.id
    assert await claim(process) is None


async def test_a_shift_runs_what_waits_without_any_order(api: TasksApi):
    """The bus only wakes: with it gone, the line is looked at all the same, and no more than fits runs at once."""
    tasks = [await api.create(prompt='x\n#sandbox {"first_byte_ms": 50}') for _ in range(5)]
    running: set[str] = set()
    most = 0

    async def counted(job: Job) -> object:
        nonlocal most
        running.add(job.order.id)
        most = max(most, len(running))
        try:
            return await api.process.worker.run(job)
        finally:
            running.discard(job.order.id)

    shift = api.process.shift(at_once=2, run=counted)
    working = asyncio.create_task(shift.work())
    for task in tasks:
        assert (await api.get(task.id, wait_s=25)).status == pb.TASK_STATUS_SUCCEEDED
    working.cancel()
    await shift.close(grace_s=20)
    assert most == 2


async def test_the_queue_is_told_by_kind(process: TasksProcess):
    """How many wait, and how long the oldest has: what workers are scaled by."""
    await heap(process, count=3)
    await process.backlog.look()
    assert process.backlog.now["image"].jobs == 3
    assert process.backlog.now["image"].oldest_s > 1_000_000


async def test_what_is_nearly_made_is_not_thrown_away_at_the_end(api: TasksApi):
    """A worker that stops waits a while for its provider's answers, and takes nothing new meanwhile."""
    task = await api.create(prompt='x\n#sandbox {"first_byte_ms": 300}')
    shift = api.process.shift()
    working = asyncio.create_task(shift.work())
    for _ in range(2000):
        if shift.running:
            break
        await asyncio.sleep(0.01)
    working.cancel()
    await shift.close(grace_s=20)
    assert (await api.get(task.id)).status == pb.TASK_STATUS_SUCCEEDED
    assert len(api.process.router.decided) == 1
