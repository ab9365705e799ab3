"""Tasks over gRPC on a real PostgreSQL: acceptance, waiting, listing, cancelling, results and rights."""

import asyncio
import json
import time
import uuid

import pytest

from chassis import db, ids
from chassis.errors import Code, TollbridgeError
from tests.patience import promised
from tests.unit.tasks.stage import CHARGE_PER_IMAGE, TasksApi, usage_of
from tollbridge.billing.v1 import billing_pb2
from tollbridge.tasks.v1 import tasks_pb2 as pb
from tollbridge.usage.v1 import usage_pb2


async def refused(call) -> Code:
    with pytest.raises(TollbridgeError) as caught:
        await call
    return caught.value.code


async def test_a_task_is_accepted_once_its_worst_case_is_held(api: TasksApi):
    """Three images at the price of now; the order to run it leaves by the outbox."""
    task = await api.create(n=3)
    assert task.status == pb.TASK_STATUS_PENDING
    assert task.model == "pictures"
    assert list(api.process.billing.holds.values()) == [3 * CHARGE_PER_IMAGE]
    letters = await api.process.publish()
    assert [(letter.kind, letter.task_id) for letter in letters] == [("run", task.id)]


async def test_the_same_task_id_is_one_task_and_one_hold(api: TasksApi):
    """Ten twins at once."""
    task_id = str(ids.uuid7())
    made = await asyncio.gather(*(api.create(task_id=task_id) for _ in range(10)))
    assert {task.id for task in made} == {task_id}
    assert len(api.process.billing.holds) == 1
    assert len(await api.process.publish()) == 1


async def test_the_same_task_id_for_another_request_is_refused(api: TasksApi):
    """An id stands for one job."""
    task = await api.create()
    assert await refused(api.create(task_id=task.id, prompt="something else")) is Code.IDEMPOTENCY_MISMATCH


async def test_the_caps_that_bind_a_task_go_with_its_hold(api: TasksApi):
    """Billing keeps them; a repetition may bring other caps, and finds the task that there is."""
    caps = [billing_pb2.SpendCap(owner="key:k", per="day", amount_nano_usd=CHARGE_PER_IMAGE)]
    task = await api.create(caps=caps)
    assert list(api.process.billing.caps.values()) == [caps]
    assert (await api.create(task_id=task.id)).id == task.id


async def test_without_money_there_is_no_task(api: TasksApi):
    """The hold comes before the job."""
    api.process.billing.available = CHARGE_PER_IMAGE - 1
    task_id = str(ids.uuid7())
    assert await refused(api.create(task_id=task_id)) is Code.INSUFFICIENT_CREDITS
    assert await refused(api.get(task_id)) is Code.NOT_FOUND


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"model": "nothing"}, Code.MODEL_NOT_FOUND),
        ({"model": "chatter"}, Code.MODEL_NOT_FOUND),
        ({"model": "bare"}, Code.PROVIDER_NOT_CONFIGURED),
        ({"kind": "sculpture"}, Code.INVALID_REQUEST),
        ({"kind": "video"}, Code.MODEL_NOT_FOUND),
        ({"body": b"{}"}, Code.INVALID_REQUEST),
        ({"task_id": "mine"}, Code.INVALID_REQUEST),
        ({"customer_id": ""}, Code.INVALID_REQUEST),
    ],
)
async def test_what_can_not_be_run_is_refused_and_holds_nothing(api: TasksApi, fields: dict, code: Code):
    """With a code of the closed list."""
    assert await refused(api.create(**fields)) is code
    assert api.process.billing.holds == {}


async def test_a_caller_may_wait_for_the_end(api: TasksApi):
    """The answer comes soon after the end, long before the wait is over."""
    task = await api.create()
    waiting = asyncio.create_task(api.get(task.id, customer_id=api.customer_id, wait_s=20))
    await api.process.run()
    ended_at_s = time.monotonic()
    seen = await waiting
    assert seen.status == pb.TASK_STATUS_SUCCEEDED
    assert seen.progress == 1.0
    assert time.monotonic() - ended_at_s < promised(2)


async def test_a_wait_that_runs_out_answers_with_what_is(api: TasksApi):
    """Not an error: the caller asks again or goes on without."""
    task = await api.create()
    assert (await api.get(task.id, wait_s=0.3)).status == pb.TASK_STATUS_PENDING


async def test_a_result_is_streamed_to_its_owner_only(api: TasksApi):
    """Whole, with its type; to a stranger it does not exist."""
    task = await api.create(n=2)
    await api.process.run()
    done = await api.get(task.id)
    assert len(done.results) == 2
    kind, data = await api.file(done.results[0].file_id, customer_id=api.customer_id)
    assert kind == "image/png"
    assert data.startswith(b"\x89PNG")
    assert len(data) == done.results[0].bytes
    stranger = str(uuid.uuid4())
    assert await refused(api.file(done.results[0].file_id, customer_id=stranger)) is Code.NOT_FOUND
    assert await refused(api.get(task.id, customer_id=stranger)) is Code.NOT_FOUND


async def test_a_large_result_comes_in_pieces(api: TasksApi):
    """No message is larger than 256 KiB of data."""
    task = await api.create()
    await api.process.run()
    file_id = (await api.get(task.id)).results[0].file_id
    whole = bytes(range(256)) * 4096
    api.process.results.files[file_id] = whole
    await api.process.sql(f"UPDATE tasks.results SET size_bytes = {len(whole)} WHERE file_id = '{file_id}'")
    assert (await api.file(file_id, customer_id=api.customer_id))[1] == whole


async def test_a_pending_task_is_cancelled_and_its_hold_is_released(api: TasksApi):
    """By a void in the outbox; the order that is on its way finds nothing to do."""
    task = await api.create()
    request = pb.CancelTaskRequest(task_id=task.id, customer_id=api.customer_id)
    for _ in range(2):
        answer = await api.call("CancelTask", request, pb.CancelTaskResponse)
        assert answer.task.status == pb.TASK_STATUS_CANCELLED
    (record,) = usage_of(await api.process.publish())
    assert (record.kind, record.charge_nano_usd) == (usage_pb2.USAGE_KIND_VOID, 0)
    assert record.closes_hold
    assert record.hold_id in api.process.billing.holds
    assert await api.process.run() is None
    assert api.process.router.decided == []


async def test_a_customers_tasks_are_listed_newest_first_in_pages(api: TasksApi):
    """Nobody else's among them."""
    made = [(await api.create()).id for _ in range(5)]
    await api.create(customer_id=str(uuid.uuid4()))
    seen: list[str] = []
    more, after = True, ""
    while more:
        request = pb.ListTasksRequest(customer_id=api.customer_id, limit=2, after=after)
        page = await api.call("ListTasks", request, pb.ListTasksResponse)
        seen += [task.id for task in page.tasks]
        more, after = page.has_more, page.tasks[-1].id
    assert seen == sorted(made, reverse=True)


async def test_a_list_of_one_kind_says_what_was_ordered(api: TasksApi):
    """From the oldest on as well; of tasks from before this was kept it is read out of their bodies."""
    body = b'{"model": "m", "prompt": "Waves %d", "seconds": "4"}'
    await api.create()
    films = [await api.create(kind="video", model="film", body=body % number) for number in range(3)]
    await api.process.sql(f"UPDATE tasks.tasks SET shown = '' WHERE id = '{films[0].id}'")
    seen: list[str] = []
    for after in ("", films[1].id):
        request = pb.ListTasksRequest(
            customer_id=api.customer_id, limit=2, after=after, kind="video", oldest_first=True, with_orders=True
        )
        page = await api.call("ListTasks", request, pb.ListTasksResponse)
        assert len(page.tasks) == len(page.orders)
        assert page.has_more is not bool(after)
        seen += [json.loads(order)["prompt"] for order in page.orders]
    assert seen == ["Waves 0", "Waves 1", "Waves 2"]


async def test_a_list_asks_the_database_as_often_however_long_it_is(api: TasksApi):
    """With what was ordered, too."""
    for number in range(4):
        await api.create(kind="video", model="film", body=b'{"model": "m", "prompt": "Waves %d"}' % number)
    asked = []
    for limit in (1, 1, 4):  # the first one asks for the secret of links, too
        before = api.process.pool.get_stats()["requests_num"]
        request = pb.ListTasksRequest(customer_id=api.customer_id, limit=limit, kind="video", with_orders=True)
        page = await api.call("ListTasks", request, pb.ListTasksResponse)
        assert len(page.orders) == limit
        asked.append(api.process.pool.get_stats()["requests_num"] - before)
    assert asked[1] == asked[2]


async def test_only_those_who_may_call(api: TasksApi):
    """router has no business here."""
    request = pb.GetTaskRequest(task_id=str(uuid.uuid4()))
    assert await refused(api.call("GetTask", request, pb.GetTaskResponse, caller="router")) is (Code.PERMISSION_DENIED)


async def test_the_database_lets_no_ended_task_be_charged_without_success(api: TasksApi):
    """A CHECK, not only code."""
    task = await api.create()
    with pytest.raises(Exception, match="violates check constraint"):
        async with db.transaction(api.process.pool) as conn:
            await conn.execute("UPDATE tasks.tasks SET charge_nano_usd = 5 WHERE id = %s", (task.id,))
