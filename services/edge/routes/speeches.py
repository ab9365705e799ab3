"""`POST /audio/speech` as a task, for texts that are too long for one call, and for whoever does not want to wait.

All others are answered on the hot path. Who waits gets the file itself, as soon as it is whole; who doesn't, or no
longer, gets 202 and the task's id.
"""

from fastapi import APIRouter, Request, Response

from chassis.errors import Code, TollbridgeError
from services.edge.bodies.speech_request import SpeechBody
from services.edge.http.json_http import Identify, answer, body_of, parsed
from services.edge.openapi import answers, paid
from services.edge.openapi.description import described
from services.edge.routes.files import file_answer
from services.edge.task_desk import ENDED, MAX_WAIT_S, SUCCEEDED, TaskDesk, failure, preferred_wait_s
from services.edge.task_files import READ_TRIES
from tollbridge.tasks.v1 import tasks_pb2

_PENDING = {tasks_pb2.TASK_STATUS_PENDING: "pending", tasks_pb2.TASK_STATUS_RUNNING: "running"}


def routes(*, desk: TaskDesk, identify: Identify) -> APIRouter:
    """The route."""
    router = APIRouter()

    @router.post("/audio/speech", openapi_extra=described(paid.SPEECH))
    async def speak(request: Request) -> Response:
        caller = await identify(request)
        body = await body_of(request)
        speech = parsed(body, SpeechBody)
        if speech.stream_format == "sse":
            message = "A text that is spoken as a task comes as a file: leave stream_format out."
            raise TollbridgeError(Code.INVALID_REQUEST, message, details={"param": "stream_format"})
        wait_s = preferred_wait_s(request, otherwise_s=MAX_WAIT_S)
        async with desk.ordered(request, caller, kind="speech", model=speech.model, body=body, wait_s=wait_s) as (
            task,
            claimed,
            is_replayed,
        ):
            response = await _response(desk, task, customer_id=caller.customer_id, request_id=claimed.task_id)
        if is_replayed:
            response.headers["idempotency-replayed"] = "true"
        return response

    return router


async def _response(desk: TaskDesk, task: tasks_pb2.Task, *, customer_id: str, request_id: str) -> Response:
    """The file when the task succeeded, the pending answer while it has not ended. Raises what it failed with."""
    if task.status not in ENDED:
        pending: answers.SpeechTask = {
            "created": task.created_at_us // 1_000_000,
            "data": [],
            "task_id": task.id,
            "provider_task_id": task.provider_task_id or None,
            "status": _PENDING[task.status],
            "model": task.model,
        }
        return answer(pending, request_id=request_id, status=202)
    if task.status != SUCCEEDED:
        raise failure(task)
    if not task.results:
        raise TollbridgeError(Code.NOT_FOUND, "This speech's file is not kept any more.")
    file = await desk.file(task.results[0].file_id, customer_id=customer_id, tries=READ_TRIES)
    return file_answer(file, request_id=request_id)
