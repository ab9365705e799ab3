"""Images as events, when they take long: their client hears of it, and of their end in its dialect's words."""

import types
from collections.abc import Iterator

import msgspec
import pytest

from chassis.errors import Code, TollbridgeError
from services.edge.dialects import openai
from services.edge.routes import image_events, images
from services.edge.routes.task_shapes import ImageBody
from tollbridge.tasks.v1 import tasks_pb2

RUNNING = tasks_pb2.Task(id="t", status=tasks_pb2.TASK_STATUS_RUNNING)
BODY = ImageBody(model="m", prompt="x", stream=True)


class Desk:
    """Answers what it is given, one thing after the other; a file's content is its id."""

    def __init__(self, *found: tasks_pb2.Task | TollbridgeError) -> None:
        self._found: Iterator[tasks_pb2.Task | TollbridgeError] = iter(found)

    async def get(self, task_id: str, caller: object, *, wait_s: float) -> tasks_pb2.Task:
        """The next thing."""
        found = next(self._found)
        if isinstance(found, TollbridgeError):
            raise found
        return found

    async def whole(self, file_id: str, caller: object) -> bytes:
        """A file."""
        return file_id.encode()


async def told(monkeypatch: pytest.MonkeyPatch, *found: tasks_pb2.Task | TollbridgeError) -> list[str]:
    """All that a client reads of a task that runs when the stream begins."""
    surface = types.SimpleNamespace(dialect=openai.DIALECT)
    monkeypatch.setattr(image_events, "context", lambda _: types.SimpleNamespace(surface=surface))
    monkeypatch.setattr(image_events, "PAUSE_S", 0)
    stream = image_events._told(Desk(*found), RUNNING, BODY, None, None)
    return [piece.decode() async for piece in stream]


async def test_whoever_waits_long_hears_that_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while nobody can be asked; then comes the image."""
    done = tasks_pb2.Task(id="t", status=tasks_pb2.TASK_STATUS_SUCCEEDED)
    done.results.add(file_id="f", content_type="image/png")
    away = TollbridgeError(Code.UNAVAILABLE, "away")
    first, second, third, event = await told(monkeypatch, RUNNING, away, done)
    assert first == second == third == ": still here\n\n"
    name, _, data = event.partition("\ndata: ")
    image = msgspec.json.decode(data)
    assert name == f"event: {image['type']}"
    assert (image["b64_json"], image["output_format"], image["size"]) == ("Zg==", "png", "auto")


@pytest.mark.parametrize("is_gone", [False, True])
async def test_what_fails_late_is_the_last_event(monkeypatch: pytest.MonkeyPatch, is_gone: bool) -> None:
    """An error as clients of the dialect know it: of a task that failed, of one whose files are gone."""
    failed = tasks_pb2.Task(
        id="t", status=tasks_pb2.TASK_STATUS_FAILED, error_code="provider_error", error_message="no"
    )
    gone = tasks_pb2.Task(id="t", status=tasks_pb2.TASK_STATUS_SUCCEEDED)
    *_, last = await told(monkeypatch, gone if is_gone else failed)
    error = msgspec.json.decode(last.removeprefix("data: "))["error"]
    assert error["code"] == ("not_found" if is_gone else "provider_error")


async def test_a_repeated_call_is_told_that_its_images_are_gone() -> None:
    """Its key still stands for the task that made and charged them; none at all would look like a free answer."""
    task = tasks_pb2.Task(id="t", status=tasks_pb2.TASK_STATUS_SUCCEEDED)
    with pytest.raises(TollbridgeError) as refused:
        await images._payload(None, task, BODY, None, None)
    assert refused.value.code is Code.NOT_FOUND
