"""The money of a job that waits long stays held, whatever happened when the job was taken on."""

import pytest

from chassis.errors import Code, TollbridgeError
from services.tasks import jobs
from services.tasks.owners import HOLD_GRACE_S
from tests.unit.tasks.stage import TasksApi

AWAY = TollbridgeError(Code.UNAVAILABLE, "Billing is away.", retry_after_s=1)
OVER = TollbridgeError(Code.NOT_FOUND, "no such open hold")
LONG_AGO = "UPDATE tasks.tasks SET created_at_us = created_at_us - 6000000"


def held_for_s(api: TasksApi, created_at_us: int) -> float:
    (deadline_us,) = api.process.billing.deadlines.values()
    return (deadline_us - created_at_us) / 1_000_000


async def test_a_hold_that_was_not_kept_at_acceptance_is_kept_by_the_sweeper(api: TasksApi):
    """Else it would end while the job waits, and the charge would find somebody else's money, or none."""
    api.process.billing.not_extending = AWAY
    task = await api.create()
    assert held_for_s(api, task.created_at_us) < jobs.ACCEPTANCE_HOLD_S + 60
    await api.process.sql(LONG_AGO)
    await api.process.sweeper.sweep()
    assert held_for_s(api, task.created_at_us) < jobs.ACCEPTANCE_HOLD_S + 60
    api.process.billing.not_extending = None
    await api.process.sweeper.sweep()
    assert held_for_s(api, task.created_at_us) > HOLD_GRACE_S


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "over"])
async def test_what_is_kept_or_over_is_asked_for_no_more(api: TasksApi, kept: bool):
    """Billing hears of each job once."""
    api.process.billing.not_extending = None if kept else OVER
    await api.create()
    await api.process.sql(LONG_AGO)
    api.process.billing.not_extending = None
    assert await api.process.holds.keep_all() == 0
