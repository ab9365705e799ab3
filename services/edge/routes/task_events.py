"""`GET /tasks/{id}/events`: a task's life as it happens, as server-sent events.

Each event is the whole task as it is then, its id the task's version. So a client that comes back with `Last-Event-ID`
misses nothing that still matters: what changed meanwhile is one event, and the end is always told. What several
changes in one moment were is not. The stream ends with the task, or after STREAM_S, or when its edge drains: whoever
wants more comes back.
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec
from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from chassis.errors import Code, TollbridgeError
from services.edge.http.json_http import Caller, Identify, context
from services.edge.openapi.description import Description, Media, Parameter, described
from services.edge.routes.task_shapes import Task
from tollbridge.tasks.v1 import tasks_pb2

Follow = Callable[[str, Caller, float, int], Awaitable[tasks_pb2.Task]]
"""`(task_id, caller, wait_s, after_version)`: the task, once it is beyond that version, has ended, or time is up."""
STREAM_S = 900.0
QUIET_S = 15.0
"""After so long without an event a comment is sent, so that nobody on the way takes the stream for dead."""
ENDED = frozenset({tasks_pb2.TASK_STATUS_SUCCEEDED, tasks_pb2.TASK_STATUS_FAILED, tasks_pb2.TASK_STATUS_CANCELLED})
_LAST = Parameter(
    name="Last-Event-ID", about="The id of the last event that was seen; later ones follow.", is_header=True
)
_ABOUT = Description(
    name="followTask",
    tag="Images and tasks",
    summary="A task's life as it happens",
    about="Server-sent events until it ends, each named `task` with the whole task as its data. 204: the end was seen.",
    media=(Media(content_type="text/event-stream", shape=Task),),
    parameters=(_LAST,),
    refuses=frozenset({Code.NOT_FOUND}),
)


def routes(
    *,
    follow: Follow,
    show: Callable[[tasks_pb2.Task, Request], Task],
    identify: Identify,
    is_draining: Callable[[], bool],
) -> APIRouter:
    """The route; another customer's task is not found."""
    router = APIRouter()

    @router.get("/tasks/{task_id}/events", openapi_extra=described(_ABOUT))
    async def follow_task(request: Request, task_id: str) -> Response:
        caller = await identify(request)
        headers = {"x-request-id": context(request).request_id}
        task = await follow(task_id, caller, 0.0, 0)
        seen = _last_seen(request)
        if task.status in ENDED and seen >= task.version:
            return Response(status_code=204, headers=headers)
        stream = _events(
            task, seen, lambda after: follow(task_id, caller, QUIET_S, after), lambda it: show(it, request), is_draining
        )
        headers |= {"cache-control": "no-store", "x-accel-buffering": "no"}
        return StreamingResponse(stream, media_type="text/event-stream", headers=headers)

    return router


async def _events(
    task: tasks_pb2.Task,
    seen: int,
    later: Callable[[int], Awaitable[tasks_pb2.Task]],
    show: Callable[[tasks_pb2.Task], Task],
    is_draining: Callable[[], bool],
) -> AsyncIterator[bytes]:
    until_s = time.monotonic() + STREAM_S
    while True:
        if task.version > seen:
            seen = task.version
            yield b"id: %d\nevent: task\ndata: %s\n\n" % (seen, msgspec.json.encode(show(task)))
        else:
            yield b": still here\n\n"
        if task.status in ENDED or time.monotonic() > until_s or is_draining():
            return
        try:
            task = await later(seen)
        except TollbridgeError:
            return  # the client comes back, to where there is somebody to ask


def _last_seen(request: Request) -> int:
    """The version that the client has seen; anything that can't be one is none."""
    text = request.headers.get("last-event-id", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0
