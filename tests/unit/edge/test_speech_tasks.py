"""What a text that is spoken as a task is answered with."""

import pytest

from chassis.errors import Code, TollbridgeError
from services.edge.routes import speeches
from services.edge.task_desk import SUCCEEDED
from tollbridge.tasks.v1 import tasks_pb2


async def test_a_repeated_call_is_told_that_its_file_is_gone() -> None:
    """Its key still stands for the task; the file was removed, by its owner or by its time."""
    task = tasks_pb2.Task(id="t", kind="speech", status=SUCCEEDED)
    with pytest.raises(TollbridgeError) as refused:
        await speeches._response(None, task, customer_id="c", request_id="t")
    assert refused.value.code is Code.NOT_FOUND
