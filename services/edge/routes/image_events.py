"""Images as OpenAI's events: `stream: true` of `POST /images/generations`.

A task knows whole files only, so there are no events of images half made; OpenAI's document has `partial_images` as
the most of them that may come. What the stream is good for here: its client sees a byte every QUIET_S, and so may wait
for longer than a plain answer can. What ends sooner than that is answered with its status if it failed.
"""

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Sequence

import msgspec
from fastapi import Request
from fastapi.responses import StreamingResponse

from chassis.errors import Code, TollbridgeError
from services.edge.http.json_http import Caller, context
from services.edge.routes.task_events import QUIET_S
from services.edge.routes.task_shapes import CompletedImage, ImageBody, ImageUsage, image_usage
from services.edge.task_desk import ENDED, SUCCEEDED, TaskDesk, failure
from services.edge.task_files import PASSES
from tollbridge.tasks.v1 import tasks_pb2

STREAM_S = 900.0
"""As long as an image may take."""
PAUSE_S = 1.0


def image_stream(
    desk: TaskDesk, task: tasks_pb2.Task, image: ImageBody, caller: Caller, request: Request
) -> StreamingResponse:
    """The stream of a task that was accepted. Raises what the task has failed with already."""
    if task.status in ENDED and task.status != SUCCEEDED:
        raise failure(task)
    headers = {"x-request-id": task.id, "cache-control": "no-store", "x-accel-buffering": "no"}
    return StreamingResponse(_told(desk, task, image, caller, request), media_type="text/event-stream", headers=headers)


def files_of(task: tasks_pb2.Task) -> Sequence[tasks_pb2.Result]:
    """The images of a task that has ended. Raises what it failed with, NOT_FOUND when they were removed since."""
    if task.status != SUCCEEDED:
        raise failure(task)
    if not task.results:
        raise TollbridgeError(Code.NOT_FOUND, "These images' files are not kept any more.")
    return task.results


async def _told(
    desk: TaskDesk, task: tasks_pb2.Task, image: ImageBody, caller: Caller, request: Request
) -> AsyncIterator[bytes]:
    """The events; what fails from now on is the last of them, in the dialect's words."""
    until_s = time.monotonic() + STREAM_S
    try:
        while task.status not in ENDED:
            if time.monotonic() > until_s:
                raise TollbridgeError(Code.UNAVAILABLE, f"The images are not done yet; /tasks/{task.id} tells of them.")
            yield b": still here\n\n"
            task = await _later(desk, task, caller)
        async for event in _completed(desk, task, image, caller):
            yield event
    except TollbridgeError as error:
        yield context(request).surface.dialect.stream_error(error, request_id=task.id)


async def _later(desk: TaskDesk, task: tasks_pb2.Task, caller: Caller) -> tasks_pb2.Task:
    """The task after a while, or once it has ended. That nobody can be asked for a moment passes."""
    try:
        return await desk.get(task.id, caller, wait_s=QUIET_S)
    except TollbridgeError as error:
        if error.code not in PASSES:
            raise
    await asyncio.sleep(PAUSE_S)
    return task


async def _completed(desk: TaskDesk, task: tasks_pb2.Task, image: ImageBody, caller: Caller) -> AsyncIterator[bytes]:
    for number, result in enumerate(files_of(task), start=1):
        content = await desk.whole(result.file_id, caller)
        event: CompletedImage = {
            "type": "image_generation.completed",
            "b64_json": base64.b64encode(content).decode(),
            "created_at": task.finished_at_us // 1_000_000,
            "background": image.background or "auto",
            "output_format": result.content_type.removeprefix("image/"),
            "quality": image.quality or "auto",
            "size": image.size or "auto",
            "usage": _usage(task, is_last=number == len(task.results)),
        }
        yield b"event: image_generation.completed\ndata: %s\n\n" % msgspec.json.encode(event)


def _usage(task: tasks_pb2.Task, *, is_last: bool) -> ImageUsage:
    """What all images used with the last one, so that whoever adds up is right."""
    return image_usage(task) if is_last else image_usage(tasks_pb2.Task())
