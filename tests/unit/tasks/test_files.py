"""The files that jobs made: whose they are, how long they last, how many one may have, and who else may read one."""

import asyncio
import dataclasses
import time
import uuid

import pytest

from chassis import db
from chassis.errors import Code, TollbridgeError
from services.tasks.config import ResultsSection
from services.tasks.files import file_desk
from tests.unit.tasks.stage import TasksApi
from tollbridge.tasks.v1 import tasks_pb2 as pb


async def made(api: TasksApi, n: int = 1) -> pb.Task:
    """A task that succeeded."""
    task = await api.create(n=n)
    await api.process.run()
    return await api.get(task.id)


async def by_link(api: TasksApi, file_id: str, expires_s: int, signature: str) -> tuple[str, bytes]:
    return await api.file(file_id, customer_id="", link_expires_s=expires_s, link_signature=signature)


async def code_of(call) -> Code:
    with pytest.raises(TollbridgeError) as refused:
        await call
    return refused.value.code


async def test_whoever_has_a_link_reads_that_file_for_an_hour_at_most(api: TasksApi):
    """No other file, no longer, and not with a letter changed."""
    task = await made(api, n=2)
    first, second = task.results
    assert 2600 < first.link_expires_s - time.time() <= 3600
    kind, data = await by_link(api, first.file_id, first.link_expires_s, first.link_signature)
    assert (kind, data[:4]) == ("image/png", b"\x89PNG")
    wrong = (
        (second.file_id, first.link_expires_s, first.link_signature),
        (first.file_id, first.link_expires_s + 1, first.link_signature),
        (first.file_id, first.link_expires_s, "0" * 64),
        (first.file_id, first.link_expires_s, "é"),
    )
    for parts in wrong:
        assert await code_of(by_link(api, *parts)) is Code.NOT_FOUND


async def test_links_of_one_process_are_good_in_every_other(api: TasksApi, new_process):
    """They share a secret that is in the database."""
    (file,) = (await made(api)).results
    other = new_process().server._files
    await other.check_link(file.file_id, expires_s=file.link_expires_s, signature=file.link_signature)


async def test_slow_readers_do_not_fill_the_memory(api: TasksApi, monkeypatch: pytest.MonkeyPatch):
    """Each has a slice; who comes while too many read is told to come again, and a reader that leaves makes room."""
    monkeypatch.setattr(file_desk, "MAX_READERS", 1)
    (file,) = (await made(api)).results
    await resized(api, file.file_id, bytes(32 << 20))
    slices = list[int]()
    read = api.process.results.read

    async def counted(file_id: str, *, start: int, length: int) -> bytes:
        slices.append(length)
        return await read(file_id, start=start, length=length)

    monkeypatch.setattr(api.process.results, "read", counted)
    reading = api.channel.unary_stream(
        "/tollbridge.tasks.v1.TasksService/GetResult",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=pb.GetResultResponse.FromString,
    )(
        pb.GetResultRequest(file_id=file.file_id, customer_id=api.customer_id),
        timeout=60,
        metadata=(("authorization", "edge:edge"),),
    )
    assert (await reading.read()).content_type == "image/png"
    assert await code_of(api.file(file.file_id, customer_id=api.customer_id)) is Code.OVERLOADED
    assert sum(slices) < 32 << 20
    reading.cancel()
    for _ in range(1000):
        if not api.process.server._files._readers:
            break
        await asyncio.sleep(0.02)
    _, data = await api.file(file.file_id, customer_id=api.customer_id)
    assert len(data) == 32 << 20
    assert max(slices) == 1 << 20


@pytest.mark.parametrize(
    ("offset", "length", "expected"),
    [
        (0, 0, slice(None)),
        (5, 0, slice(5, None)),
        (1_500_000, 600_000, slice(1_500_000, 2_100_000)),
        (-7, 0, slice(-7, None)),
        (-9_000_000, 3, slice(0, 3)),
        (2_999_999, 100, slice(2_999_999, None)),
        (3_000_000, 0, slice(0, 0)),
        (1 << 62, 1 << 62, slice(0, 0)),
    ],
)
async def test_a_part_of_a_file_is_read_by_itself(api: TasksApi, offset: int, length: int, expected: slice):
    """From wherever, to wherever; the first piece says how large the whole is."""
    (file,) = (await made(api)).results
    data = bytes(index % 251 for index in range(3_000_000))
    await resized(api, file.file_id, data)
    part = pb.GetResultRequest(file_id=file.file_id, customer_id=api.customer_id, offset=offset, length=length)
    pieces = await api.pieces(part)
    assert (pieces[0].content_type, pieces[0].size) == ("image/png", 3_000_000)
    assert b"".join(piece.data for piece in pieces) == data[expected]


async def resized(api: TasksApi, file_id: str, data: bytes) -> None:
    """Has the file be these bytes."""
    api.process.results.files[file_id] = data
    await api.process.sql(f"UPDATE tasks.results SET size_bytes = {len(data)} WHERE file_id = '{file_id}'")


async def test_files_whose_time_is_over_are_removed(api: TasksApi):
    """From the list, from the store, and from what the customer has; the task stays."""
    api.process.rules = ResultsSection(keep_hours=0.0)
    old = await made(api, n=2)
    api.process.rules = ResultsSection(keep_hours=24.0)
    new = await made(api)
    assert await code_of(api.file(old.results[0].file_id, customer_id=api.customer_id)) is Code.NOT_FOUND
    assert await api.process.retention.round() == 2
    assert await api.process.retention.round() == 0
    assert set(api.process.results.files) == {new.results[0].file_id}
    after = await api.get(old.id)
    assert (after.status, list(after.results)) == (pb.TASK_STATUS_SUCCEEDED, [])
    assert (new.results[0].expires_at_us - new.finished_at_us) // 1_000_000 == 24 * 3600
    assert await stored(api) == (new.results[0].bytes, 1)


async def test_a_store_that_is_away_is_asked_again_to_remove(api: TasksApi):
    """Nobody sees the file meanwhile."""
    (file,) = (await made(api)).results
    api.process.results.fails = 1
    await delete(api, file_id=file.file_id)
    assert await code_of(api.file(file.file_id, customer_id=api.customer_id)) is Code.NOT_FOUND
    assert file.file_id in api.process.results.files
    await api.process.retention.round()
    assert api.process.results.files == {}


async def test_what_a_process_owed_the_store_when_it_ended_is_removed_by_another(api: TasksApi, new_process):
    """Whoever asked for it to be gone was told that it is."""
    (file,) = (await made(api)).results
    api.process.results.fails = 1
    await delete(api, file_id=file.file_id)
    other = new_process()
    other.results.files = api.process.results.files
    await other.retention.round()
    assert api.process.results.files == {}


async def test_files_of_a_job_that_ended_while_they_were_stored_are_removed(api: TasksApi):
    """Nobody could ever reach them; those of a job that succeeded stay."""
    kept, task = await made(api), await api.create(n=2)
    put = api.process.results.put

    async def cancelled_meanwhile(file_id: str, data: bytes) -> None:
        await put(file_id, data)
        await api.process.ends.cancel(task.id)

    api.process.results.put = cancelled_meanwhile
    await api.process.run()
    assert (await api.get(task.id)).status == pb.TASK_STATUS_CANCELLED
    assert len(api.process.results.files) == 3
    await api.process.retention.round()
    assert len(api.process.results.files) == 3, "another worker may be about to end it with them"
    await api.process.sql("UPDATE tasks.leftovers SET clear_at_us = 1")
    await api.process.retention.round()
    assert set(api.process.results.files) == {kept.results[0].file_id}


@pytest.mark.parametrize(
    "rules", [ResultsSection(customer_max_files=2), ResultsSection(customer_max_mib=1)], ids=["files", "bytes"]
)
async def test_a_customer_with_too_much_is_told_so_and_holds_nothing(api: TasksApi, rules: ResultsSection):
    """Until some of it is gone; other customers don't notice."""
    task = await made(api, n=2)
    async with db.transaction(api.process.pool) as conn:
        await conn.execute("UPDATE tasks.storage SET bytes = bytes + 1048576")
    held = dict(api.process.billing.holds)
    api.process.rules = rules
    with pytest.raises(TollbridgeError) as refused:
        await api.create()
    assert refused.value.code is Code.PERMISSION_DENIED
    assert refused.value.details["reason"] == "storage_full"
    assert "DELETE /files/ID" in refused.value.message
    assert api.process.billing.holds == held
    assert (await dataclasses.replace(api, customer_id=str(uuid.uuid4())).create()).id
    async with db.transaction(api.process.pool) as conn:
        await conn.execute("UPDATE tasks.storage SET bytes = bytes - 1048576")
    await delete(api, task_id=task.id)
    assert (await api.create()).id
    assert await stored(api) == (0, 0)


async def test_only_its_owner_deletes_a_file(api: TasksApi):
    """To others it isn't there; twice is once."""
    (file,) = (await made(api)).results
    stranger = dataclasses.replace(api, customer_id=str(uuid.uuid4()))
    assert await code_of(delete(stranger, file_id=file.file_id)) is Code.NOT_FOUND
    assert await code_of(delete(stranger, task_id=(await made(api)).id)) is Code.NOT_FOUND
    await delete(api, file_id=file.file_id)
    assert await code_of(delete(api, file_id=file.file_id)) is Code.NOT_FOUND
    for fields in ({}, {"file_id": file.file_id, "task_id": file.file_id}):
        assert await code_of(delete(api, **fields)) is Code.INVALID_REQUEST


async def test_a_task_that_was_deleted_says_so(api: TasksApi):
    """It is left out of lists that want none such, one whose file alone was removed is not."""
    gone, kept = await made(api), await made(api)
    await delete(api, task_id=gone.id)
    await delete(api, file_id=kept.results[0].file_id)

    async def listed(*, without_deleted: bool) -> dict[str, bool]:
        request = pb.ListTasksRequest(customer_id=api.customer_id, without_deleted=without_deleted)
        reply = await api.call("ListTasks", request, pb.ListTasksResponse)
        return {task.id: task.deleted for task in reply.tasks}

    assert await listed(without_deleted=False) == {gone.id: True, kept.id: False}
    assert await listed(without_deleted=True) == {kept.id: False}


async def test_a_task_that_is_deleted_while_it_is_made_ends_with_that(api: TasksApi):
    """It is not made, and charged, where nobody would see it; to others it goes on."""
    task = await api.create()
    stranger = dataclasses.replace(api, customer_id=str(uuid.uuid4()))
    assert await code_of(delete(stranger, task_id=task.id)) is Code.NOT_FOUND
    assert (await api.get(task.id)).status == pb.TASK_STATUS_PENDING
    await delete(api, task_id=task.id)
    ended = await api.get(task.id)
    assert (ended.status, ended.deleted, ended.charge_nano_usd) == (pb.TASK_STATUS_CANCELLED, True, 0)


async def delete(api: TasksApi, **fields: str) -> None:
    request = pb.DeleteResultsRequest(customer_id=api.customer_id, **fields)
    await api.call("DeleteResults", request, pb.DeleteResultsResponse)


async def stored(api: TasksApi) -> tuple[int, int]:
    """Bytes and files that the customer is counted with."""
    async with db.transaction(api.process.pool) as conn:
        cursor = await conn.execute("SELECT bytes, files FROM tasks.storage WHERE customer_id = %s", (api.customer_id,))
        row = await cursor.fetchone()
    assert row is not None
    return row[0], row[1]
