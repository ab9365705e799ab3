"""What ended long ago is forgotten, and nothing of which something still goes on."""

from pathlib import Path

import pytest
import structlog

from chassis import config as files
from chassis import db
from chassis.errors import Code, TollbridgeError
from services.tasks import config
from services.tasks.config import ResultsSection, TasksConfig, TasksSection
from services.tasks.work.forgetter import Forgetter
from tests.unit.tasks.stage import TasksApi
from tollbridge.tasks.v1 import tasks_pb2 as pb
from tollbridge.usage.v1 import usage_pb2

MONTH_S = 30 * 86_400.0


@pytest.fixture
def forgetter(api: TasksApi) -> Forgetter:
    return Forgetter(pool=api.process.pool, keep_s=lambda: MONTH_S, log=structlog.get_logger())


async def over(api: TasksApi) -> str:
    """A job that ended more than a month ago, settled, and whose file is gone."""
    task = await api.create()
    assert await api.process.run() is None
    await api.process.publish()
    api.process.billing.known.add((task.id, usage_pb2.USAGE_KIND_CHARGE))
    assert await api.process.outbox.confirm_once() == 0
    await api.process.sql(f"UPDATE tasks.tasks SET finished_at_us = 1 WHERE id = '{task.id}'")
    await api.process.sql(f"UPDATE tasks.results SET expires_at_us = 1 WHERE task_id = '{task.id}'")
    await api.process.retention.round()
    return task.id


async def is_there(api: TasksApi, task_id: str) -> bool:
    try:
        await api.get(task_id, customer_id=api.customer_id)
    except TollbridgeError as error:
        return error.code is not Code.NOT_FOUND
    return True


async def test_a_task_that_ended_long_ago_is_not_found_any_more(api: TasksApi, forgetter: Forgetter):
    """Neither by its id nor in the list; the others stay."""
    old = await over(api)
    waits = await api.create()
    assert await forgetter.round() == 1
    assert not await is_there(api, old)
    request = pb.ListTasksRequest(customer_id=api.customer_id)
    listed = await api.call("ListTasks", request, pb.ListTasksResponse)
    assert [task.id for task in listed.tasks] == [waits.id]
    with pytest.raises(TollbridgeError) as refused:
        await api.call(
            "CancelTask", pb.CancelTaskRequest(task_id=old, customer_id=api.customer_id), pb.CancelTaskResponse
        )
    assert refused.value.code is Code.NOT_FOUND


@pytest.mark.parametrize(
    "goes_on",
    [
        "UPDATE tasks.tasks SET finished_at_us = (extract(epoch FROM now()) * 1000000)::bigint - 29 * 86400000000",
        "UPDATE tasks.tasks SET stop_at_us = 1",
        "UPDATE tasks.results SET removed_at_us = 0",
        "INSERT INTO tasks.outbox (event_id, kind, task_id, payload, made_at_us)"
        " SELECT gen_random_uuid(), 'usage', id, '', 1 FROM tasks.tasks",
        "INSERT INTO tasks.webhooks (id, task_id, customer_id, url, body, made_at_us, try_at_us)"
        " SELECT gen_random_uuid(), id, customer_id, 'https://x.example', '', 1, 1 FROM tasks.tasks",
    ],
    ids=["young", "runs-at-its-provider", "file", "settlement", "webhook"],
)
async def test_a_task_of_which_something_goes_on_is_kept(api: TasksApi, forgetter: Forgetter, goes_on: str):
    """Whatever its age."""
    old = await over(api)
    await api.process.sql(goes_on)
    assert await forgetter.round() == 0
    assert await is_there(api, old)


@pytest.mark.parametrize("ends", ["well", "badly", "cancelled"])
async def test_what_was_ordered_is_forgotten_at_the_end(api: TasksApi, ends: str):
    """It may be large; who comes again under the same id is shown the task all the same."""
    prompt = 'x\n#sandbox {"status": 400}' if ends == "badly" else "x"
    task = await api.create(prompt=prompt)
    assert await bodies(api) > 0
    if ends == "cancelled":
        await api.process.ends.cancel(task.id)
    else:
        await api.process.run()
    assert await bodies(api) == 0
    assert (await api.create(prompt=prompt, task_id=task.id)).finished_at_us > 0


async def test_what_is_to_be_stopped_at_its_provider_is_known_until_it_is(api: TasksApi):
    """The provider is told by whoever reads the order."""
    task = await api.create()
    await api.process.sql("UPDATE tasks.tasks SET provider_task_id = 'far', provider_account_id = 'sandbox-0'")
    await api.process.ends.cancel(task.id)
    assert await bodies(api) > 0
    assert await api.process.stopper.look() == 1
    assert await bodies(api) == 0


async def bodies(api: TasksApi) -> int:
    """How many bytes of orders there are."""
    async with db.transaction(api.process.pool) as conn:
        row = await (await conn.execute("SELECT sum(octet_length(body)) FROM tasks.tasks")).fetchone()
    return 0 if row is None else int(row[0])


async def test_one_process_at_a_time_forgets(api: TasksApi, forgetter: Forgetter):
    """The others look again later."""
    old = await over(api)
    async with db.transaction(api.process.pool) as conn:
        await conn.execute("SELECT pg_advisory_xact_lock(hashtext('tasks.forget'))")
        assert await forgetter.round() == 0
    assert await forgetter.round() == 1
    assert not await is_there(api, old)


def test_a_task_is_kept_for_a_month_and_no_shorter_than_files():
    """Unless the operator says something else."""
    assert TasksConfig().keep_tasks_s == MONTH_S
    assert TasksConfig(tasks=TasksSection(keep_days=7)).keep_tasks_s == 7 * 86_400
    assert TasksConfig(results=ResultsSection(keep_hours=24 * 60)).keep_tasks_s == 2 * MONTH_S


@pytest.mark.parametrize("days", ["1", "0", "-3", "100000"])
def test_days_that_can_not_be_are_refused_with_their_place(tmp_path: Path, days: str):
    """Keys of idempotency, which live for a day, name tasks."""
    path = tmp_path / "tollbridge.yaml"
    path.write_text(f"tasks:\n  keep_days: {days}\n")
    with pytest.raises(files.ConfigError) as refused:
        config.parse(files.read(path), environ={})
    assert (refused.value.line, refused.value.key) == (2, "tasks.keep_days")
