"""Files of tasks, as edge reads them."""

from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
from fastapi import Request

from chassis.errors import Code, TollbridgeError
from services.edge import task_files
from services.edge.dialects import DEFAULT
from services.edge.http.json_http import SCOPE_KEY, Caller, RequestContext
from services.edge.idempotency.task_claims import TaskClaims
from services.edge.limits.terms import Kind, Terms
from services.edge.surfaces import Surface
from services.edge.task_desk import TaskDesk
from services.edge.task_files import READ_TRIES, SLICE_BYTES
from tests.unit.edge.test_gate import Pipe, limits_over
from tollbridge.tasks.v1 import tasks_pb2

FILE = bytes(index % 251 for index in range(2 * SLICE_BYTES + 7))
CALLER = Caller(customer_id="c", key_id="k", models=frozenset(), caps=())


class Tasks:
    """Has one file, and fails so often before it answers."""

    def __init__(self, *, fails: int = 0, code: Code = Code.UNAVAILABLE) -> None:
        self.fails, self.code, self.asked = fails, code, list[tasks_pb2.GetResultRequest]()

    async def stream(
        self, _: str, request: tasks_pb2.GetResultRequest, *__: object, **___: object
    ) -> AsyncIterator[tasks_pb2.GetResultResponse]:
        self.asked.append(request)
        part = FILE[request.offset :][: request.length or None]
        yield tasks_pb2.GetResultResponse(content_type="image/png", size=len(FILE), data=part[:3])
        if self.fails:
            self.fails -= 1
            raise TollbridgeError(self.code, "not now")
        yield tasks_pb2.GetResultResponse(data=part[3:])


def desk_of(tasks: Tasks, monkeypatch: pytest.MonkeyPatch) -> TaskDesk:
    monkeypatch.setattr(task_files, "READ_PAUSE_S", 0.0)
    return TaskDesk(tasks=tasks, keys=None, catalogue=None, limits=None)  # type: ignore[arg-type]  # stand-ins


@pytest.mark.parametrize(
    ("tasks", "asked"),
    [
        (Tasks(fails=2), 5),
        (Tasks(fails=99), READ_TRIES),
        (Tasks(fails=99, code=Code.NOT_FOUND), 1),
    ],
    ids=["back soon", "away", "gone"],
)
async def test_a_paid_file_is_not_lost_to_trouble_that_passes(
    tasks: Tasks, asked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its client would order it anew, and pay for it twice."""
    desk = desk_of(tasks, monkeypatch)
    if tasks.fails < READ_TRIES:
        assert await desk.whole("f", CALLER) == FILE
    else:
        with pytest.raises(TollbridgeError) as refused:
            await desk.whole("f", CALLER)
        assert refused.value.code is tasks.code
    assert len(tasks.asked) == asked


async def test_a_download_outlives_the_replica_that_began_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """What its client has of it would be lost; and who was let in is not asked again, though the link has ended."""
    tasks = Tasks()
    file = await desk_of(tasks, monkeypatch).file("f", expires_s=5, signature="s")
    found = bytearray()
    async for piece in file.pieces(0, file.size):
        found += piece
        tasks.fails = 2 if len(found) == SLICE_BYTES else 0
    assert found == FILE
    assert [(each.offset, each.link_signature) for each in tasks.asked[:2]] == [(0, "s"), (SLICE_BYTES, "")]
    assert max(each.length for each in tasks.asked) == SLICE_BYTES


async def test_a_slice_is_read_once_the_one_before_was_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow client keeps no more than one here."""
    tasks = Tasks()
    file = await desk_of(tasks, monkeypatch).file("f", customer_id="c")
    pieces = file.pieces(0, file.size)
    await anext(pieces)
    assert len(tasks.asked) == 1


class Refusing:
    """Takes no job, or nobody hears that it does."""

    def __init__(self, code: Code) -> None:
        self.code = code

    async def call(self, *_: object, **__: object) -> None:
        raise TollbridgeError(self.code, "no answer")


@pytest.mark.parametrize(
    ("code", "counted"), [(Code.INSUFFICIENT_CREDITS, 0), (Code.UNAVAILABLE, 1), (Code.DEADLINE_EXCEEDED, 1)]
)
async def test_a_job_that_may_have_been_accepted_counts(code: Code, counted: int) -> None:
    """It runs, perhaps, and no later call under its key counts it; what is surely refused uses nothing up."""
    pipe = Pipe()
    limits = limits_over(pipe)
    tasks = cast("Any", Refusing(code))
    desk = TaskDesk(tasks=tasks, keys=TaskClaims(claims=cast("Any", None)), catalogue=cast("Any", None), limits=limits)
    surface = Surface(prefix="", dialect=DEFAULT, models_public=False, without=frozenset())
    found = RequestContext(surface=surface, request_id="r", client_ip="", public_url="", traceparent="")
    request = Request({"type": "http", "path": "/", "headers": [], SCOPE_KEY: found})
    caller = Caller(
        customer_id="c", key_id="k", models=frozenset(), limits=Terms(subject="k", limits={Kind.REQUESTS: 5})
    )
    with pytest.raises(TollbridgeError, match="no answer"):
        async with desk.ordered(request, caller, kind="image", model="m", body=b"{}", wait_s=0):
            pass
    found.told.end()
    await limits.drain()
    assert pipe.desk.counted("k", Kind.REQUESTS) == counted
