"""The money of a job that waits long stays held, whatever happened when the job was taken on."""

import asyncio

import pytest
import structlog

from chassis import db
from chassis.errors import Code, TollbridgeError
from services.tasks import jobs, store
from services.tasks.jobs import HOLD_GRACE_S, Job
from services.tasks.work.hold_keeper import HoldKeeper
from tests.unit.tasks.stage import TasksApi

AWAY = TollbridgeError(Code.UNAVAILABLE, "Billing is away.", retry_after_s=1)
OVER = TollbridgeError(Code.NOT_FOUND, "no such open hold")
LONG_AGO = "UPDATE tasks.tasks SET created_at_us = created_at_us - 6000000"


def held_for_s(api: TasksApi, created_at_us: int) -> float:
    (deadline_us,) = api.process.billing.deadlines.values()
    return (deadline_us - created_at_us) / 1_000_000


async def test_a_hold_that_was_not_kept_at_acceptance_is_kept_by_a_later_look(api: TasksApi):
    """Else it would end while the job waits, and the charge would find somebody else's money, or none."""
    api.process.billing.not_extending = AWAY
    task = await api.create()
    assert held_for_s(api, task.created_at_us) < jobs.ACCEPTANCE_HOLD_S + 60
    await api.process.sql(LONG_AGO)
    await api.process.holds.keep_all()
    assert held_for_s(api, task.created_at_us) < jobs.ACCEPTANCE_HOLD_S + 60
    api.process.billing.not_extending = None
    await api.process.holds.keep_all()
    assert held_for_s(api, task.created_at_us) > HOLD_GRACE_S


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "over"])
async def test_what_is_kept_or_over_is_asked_for_no_more(api: TasksApi, kept: bool):
    """Billing hears of each job once."""
    api.process.billing.not_extending = None if kept else OVER
    await api.create()
    await api.process.sql(LONG_AGO)
    api.process.billing.not_extending = None
    assert await api.process.holds.keep_all() == 0


async def test_who_orders_a_job_hears_of_it_though_billing_is_silent(api: TasksApi):
    """Edge would give up, and its client order, and pay for, the same again."""
    api.process.billing.not_extending = AWAY
    task = await api.create()

    async def silent(_: Job) -> bool:
        return await asyncio.Event().wait()

    keeper = HoldKeeper(pool=api.process.pool, extend=silent, log=structlog.get_logger(), patience_s=0.01)
    async with db.transaction(api.process.pool) as conn:
        job = await store.job(conn, task.id)
    assert job is not None
    async with asyncio.timeout(20):
        await keeper.keep(job)
    await api.process.sql(LONG_AGO)
    api.process.billing.not_extending = None
    assert await api.process.holds.keep_all() == 1


async def test_billing_is_asked_for_no_hold_of_a_job_that_is_over(api: TasksApi):
    """Those would be in the way of the ones that wait."""
    api.process.billing.not_extending = AWAY
    task = await api.create()
    await api.process.ends.cancel(task.id)
    await api.process.sql(LONG_AGO)
    api.process.billing.not_extending = None
    assert await api.process.holds.keep_all() == 0
    assert held_for_s(api, task.created_at_us) < jobs.ACCEPTANCE_HOLD_S + 60
