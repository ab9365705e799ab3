"""Files of tasks, as edge reads them."""

from collections.abc import AsyncIterator

import pytest

from chassis.errors import Code, TollbridgeError
from services.edge import task_desk
from services.edge.http.json_http import Caller
from services.edge.task_desk import READ_TRIES, TaskDesk
from tollbridge.tasks.v1 import tasks_pb2


class Tasks:
    """Fails so often before it answers."""

    def __init__(self, *, fails: int, code: Code = Code.UNAVAILABLE) -> None:
        self.fails, self.code, self.asked = fails, code, 0

    async def stream(self, *_: object, **__: object) -> AsyncIterator[tasks_pb2.GetResultResponse]:
        self.asked += 1
        if self.asked <= self.fails:
            raise TollbridgeError(self.code, "not now")
        yield tasks_pb2.GetResultResponse(content_type="image/png", data=b"a")
        yield tasks_pb2.GetResultResponse(data=b"b")


@pytest.mark.parametrize(
    ("tasks", "asked"),
    [
        (Tasks(fails=2), 3),
        (Tasks(fails=99), READ_TRIES),
        (Tasks(fails=99, code=Code.NOT_FOUND), 1),
    ],
    ids=["back soon", "away", "gone"],
)
async def test_a_paid_file_is_not_lost_to_trouble_that_passes(
    tasks: Tasks, asked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its client would order it anew, and pay for it twice."""
    monkeypatch.setattr(task_desk, "READ_PAUSE_S", 0.0)
    desk = TaskDesk(tasks=tasks, keys=None, catalogue=None)
    caller = Caller(customer_id="c", key_id="k", models=(), caps=())
    if tasks.fails < READ_TRIES:
        assert await desk.whole("f", caller) == b"ab"
    else:
        with pytest.raises(TollbridgeError) as refused:
            await desk.whole("f", caller)
        assert refused.value.code is tasks.code
    assert tasks.asked == asked
