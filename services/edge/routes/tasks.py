"""Long jobs over HTTP: `POST /images/generations`, `/tasks`, and the files that tasks made.

Edge validates and hands over; the task is tasks' from then on, whether or not the client waits. A client that leaves
does not cancel its task: it was accepted and is listed.
"""

import base64
from collections.abc import AsyncIterator
from typing import cast

import msgspec
from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from chassis.errors import Code, TollbridgeError
from chassis.pipe import PipeClient
from pricing.prices import usd_number, usd_text
from services.edge.catalogue import Catalogue
from services.edge.claims import Claims
from services.edge.json_http import Caller, Identify, answer, body_of, context, link, page, page_limit, parsed, rfc3339
from services.edge.max_cost import max_cost_of
from services.edge.model_names import may_use
from services.edge.openapi.description import described
from services.edge.routes import task_events
from services.edge.routes.task_shapes import (
    CANCEL_TASK,
    CREATE_IMAGE,
    GET_FILE,
    GET_TASK,
    LIST_TASKS,
    Image,
    ImageBody,
    Images,
    Task,
    TaskError,
    TaskFile,
    WebhookWish,
    image_usage,
)
from services.edge.spend_caps import to_wire
from services.edge.task_claims import TaskClaims
from tollbridge.tasks.v1 import tasks_pb2

TIMEOUT_S = 5.0
DEFAULT_WAIT_S = 60.0
MAX_RESULT_BYTES = 64 << 20

_STATUS = {
    tasks_pb2.TASK_STATUS_PENDING: "pending",
    tasks_pb2.TASK_STATUS_RUNNING: "running",
    tasks_pb2.TASK_STATUS_SUCCEEDED: "succeeded",
    tasks_pb2.TASK_STATUS_FAILED: "failed",
    tasks_pb2.TASK_STATUS_CANCELLED: "cancelled",
}


def routes(*, tasks: PipeClient, claims: Claims, catalogue: Catalogue, identify: Identify) -> APIRouter:
    """The routes; another customer's task or file is not found."""
    router = APIRouter()
    jobs = TaskDesk(tasks=tasks, keys=TaskClaims(claims=claims), catalogue=catalogue)
    router.include_router(task_events.routes(follow=jobs.follow, show=shown, identify=identify))

    @router.post("/images/generations", openapi_extra=described(CREATE_IMAGE))
    async def create_image(request: Request) -> Response:
        return await jobs.image(request, await identify(request))

    @router.get("/tasks", openapi_extra=described(LIST_TASKS))
    async def list_tasks(request: Request) -> Response:
        caller = await identify(request)
        reply = await tasks.call(
            "ListTasks",
            tasks_pb2.ListTasksRequest(
                customer_id=caller.customer_id,
                limit=page_limit(request),
                after=request.query_params.get("after", ""),
            ),
            tasks_pb2.ListTasksResponse,
            timeout_s=TIMEOUT_S,
        )
        found = page([shown(task, request) for task in reply.tasks], has_more=reply.has_more)
        return answer(found, request_id=context(request).request_id)

    @router.get("/tasks/{task_id}", openapi_extra=described(GET_TASK))
    async def get_task(request: Request, task_id: str) -> Response:
        caller = await identify(request)
        task = await jobs.get(task_id, caller, wait_s=0)
        return answer(shown(task, request), request_id=context(request).request_id)

    @router.post("/tasks/{task_id}/cancel", openapi_extra=described(CANCEL_TASK))
    async def cancel_task(request: Request, task_id: str) -> Response:
        caller = await identify(request)
        reply = await tasks.call(
            "CancelTask",
            tasks_pb2.CancelTaskRequest(task_id=task_id, customer_id=caller.customer_id),
            tasks_pb2.CancelTaskResponse,
            timeout_s=TIMEOUT_S,
        )
        return answer(shown(reply.task, request), request_id=context(request).request_id)

    @router.get("/files/{file_id}/content", openapi_extra=described(GET_FILE))
    async def get_file(request: Request, file_id: str) -> Response:
        caller = await identify(request)
        return await jobs.file_answer(file_id, caller, request_id=context(request).request_id)

    return router


class TaskDesk:
    """Hands jobs over to tasks and reads them back, always in the caller's name."""

    def __init__(self, *, tasks: PipeClient, keys: TaskClaims, catalogue: Catalogue) -> None:
        self._tasks = tasks
        self._keys = keys
        self._catalogue = catalogue

    async def image(self, request: Request, caller: Caller) -> Response:
        """Has images made, or, under a key that was used, shows what became of those that it stands for."""
        body = await body_of(request)
        image = parsed(body, ImageBody)
        await check_model(image.model, caller, self._catalogue)
        async with self._keys.claimed(request, caller, body) as claimed:
            found = await self._found(claimed.task_id, caller) if claimed.begun else None
            task = found or await self.hand_over(
                request, caller, task_id=claimed.task_id, kind="image", model=image.model, body=body
            )
            task = await self.awaited(task, caller, wait_s=_wait_s(request))
            claimed.succeeded = task.status == tasks_pb2.TASK_STATUS_SUCCEEDED
            as_base64 = image.response_format == "b64_json"
            payload = await self.image_answer(task, caller, as_base64=as_base64, request=request)
        response = answer(payload, request_id=claimed.task_id)
        if found is not None:
            response.headers["idempotency-replayed"] = "true"
        return response

    async def _found(self, task_id: str, caller: Caller) -> tasks_pb2.Task | None:
        try:
            return await self.get(task_id, caller, wait_s=0)
        except TollbridgeError as error:
            if error.code is not Code.NOT_FOUND:
                raise
            return None

    async def hand_over(
        self, request: Request, caller: Caller, *, task_id: str, kind: str, model: str, body: bytes
    ) -> tasks_pb2.Task:
        """Has the job accepted, which holds its credits; `body` is JSON and may name a `webhook_url`.

        Raises INVALID_REQUEST, MODEL_NOT_FOUND, MAX_COST_EXCEEDED, INSUFFICIENT_CREDITS and what else tasks says.
        """
        reply = await self._tasks.call(
            "CreateTask",
            tasks_pb2.CreateTaskRequest(
                task_id=task_id,
                customer_id=caller.customer_id,
                key_id=caller.key_id,
                kind=kind,
                model=model,
                body=body,
                caps=to_wire(caller.caps),
                max_cost_nano_usd=max_cost_of(request.headers.raw),
                webhook_url=parsed(body, WebhookWish).webhook_url or "",
                files_url=link(request, "/files"),
            ),
            tasks_pb2.CreateTaskResponse,
            key=caller.customer_id,
            timeout_s=TIMEOUT_S,
            traceparent=context(request).traceparent,
        )
        return reply.task

    async def awaited(self, task: tasks_pb2.Task, caller: Caller, *, wait_s: float) -> tasks_pb2.Task:
        """The task after the wait. It is accepted, so a wait that fails answers what is known and never an error:
        an error would be retried, and the retry would be a second job with a second charge."""
        if wait_s <= 0:
            return task
        try:
            return await self.get(task.id, caller, wait_s=wait_s)
        except TollbridgeError as error:
            if error.code not in (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.OVERLOADED):
                raise
            return task

    async def follow(self, task_id: str, caller: Caller, wait_s: float, after_version: int) -> tasks_pb2.Task:
        """The task, once it has changed or `wait_s` is over."""
        return await self.get(task_id, caller, wait_s=wait_s, after_version=after_version)

    async def get(self, task_id: str, caller: Caller, *, wait_s: float, after_version: int = 0) -> tasks_pb2.Task:
        """The task, once it has ended, is beyond a version (0: any), or `wait_s` is over."""
        reply = await self._tasks.call(
            "GetTask",
            tasks_pb2.GetTaskRequest(
                task_id=task_id, customer_id=caller.customer_id, wait_s=wait_s, after_version=after_version
            ),
            tasks_pb2.GetTaskResponse,
            timeout_s=wait_s + TIMEOUT_S,
        )
        return reply.task

    async def image_answer(self, task: tasks_pb2.Task, caller: Caller, *, as_base64: bool, request: Request) -> Images:
        """OpenAI's shape when the task succeeded, the pending answer while it has not ended."""
        created = task.created_at_us // 1_000_000
        if task.status not in task_events.ENDED:
            return {
                "created": created,
                "data": [],
                "task_id": task.id,
                "provider_task_id": task.provider_task_id or None,
                "status": _STATUS[task.status],
                "model": task.model,
            }
        if task.status != tasks_pb2.TASK_STATUS_SUCCEEDED:
            raise _failure(task)
        data: list[Image] = []
        for result in task.results:
            if as_base64:
                content = await self._whole(result.file_id, caller)
                data.append({"b64_json": base64.b64encode(content).decode()})
            else:
                data.append({"url": link(request, f"/files/{result.file_id}/content")})
        return {"created": created, "data": data, "task_id": task.id, "usage": image_usage(_cost(task))}

    async def file_answer(self, file_id: str, caller: Caller, *, request_id: str) -> Response:
        """A result's bytes, streamed; the content type is what the worker recorded, never what a client says."""
        pieces = self._pieces(file_id, caller)
        first = await anext(pieces)
        headers = {
            "x-request-id": request_id,
            "x-content-type-options": "nosniff",
            "cache-control": "private, max-age=3600",
        }

        async def relay() -> AsyncIterator[bytes]:
            yield first.data
            async for piece in pieces:
                yield piece.data

        return StreamingResponse(relay(), media_type=first.content_type, headers=headers)

    async def _whole(self, file_id: str, caller: Caller) -> bytes:
        content = bytearray()
        async for piece in self._pieces(file_id, caller):
            content += piece.data
            if len(content) > MAX_RESULT_BYTES:
                raise TollbridgeError(Code.INVALID_REQUEST, "The result is too large for b64_json; ask for url.")
        return bytes(content)

    def _pieces(self, file_id: str, caller: Caller) -> AsyncIterator[tasks_pb2.GetResultResponse]:
        return self._tasks.stream(
            "GetResult",
            tasks_pb2.GetResultRequest(file_id=file_id, customer_id=caller.customer_id),
            tasks_pb2.GetResultResponse,
            timeout_s=60.0,
        )


def shown(task: tasks_pb2.Task, request: Request) -> Task:
    """A task as its customer sees it."""
    error: TaskError | None = {"code": task.error_code, "message": task.error_message} if task.error_code else None
    files: list[TaskFile] = [
        {"url": link(request, f"/files/{each.file_id}/content"), "content_type": each.content_type, "bytes": each.bytes}
        for each in task.results
    ]
    return {
        "id": task.id,
        "object": "task",
        "kind": task.kind,
        "model": task.model,
        "status": _STATUS.get(task.status),
        "progress": task.progress,
        "created_at": rfc3339(task.created_at_us),
        "started_at": rfc3339(task.started_at_us),
        "finished_at": rfc3339(task.finished_at_us),
        "result": {"data": files} if files else None,
        "error": error,
        "cost": usd_text(task.charge_nano_usd),
    }


async def check_model(name: str, caller: Caller, catalogue: Catalogue) -> None:
    """Raises MODEL_NOT_ALLOWED for a model, by any of its names, that the caller's key doesn't list; UNAVAILABLE."""
    if not caller.models:
        return
    (model,) = await catalogue.ids_of((name,))
    if not may_use(caller.models, model):
        message = f"This key may not use the model {name[:200]!r}."
        raise TollbridgeError(Code.MODEL_NOT_ALLOWED, message, details={"param": "model"})


def _wait_s(request: Request) -> float:
    """How long the client waits: by its `Prefer` header, else as its dialect has it."""
    prefer = request.headers.get("prefer", "")
    for part in prefer.lower().split(","):
        name, _, value = part.strip().partition("=")
        if name == "respond-async":
            return 0.0
        if name == "wait" and value.isascii() and value.isdigit():
            return min(DEFAULT_WAIT_S, float(value[:4]))
    return 0.0 if context(request).surface.dialect.images_at_once else DEFAULT_WAIT_S


def _failure(task: tasks_pb2.Task) -> TollbridgeError:
    known = {code.value for code in Code}
    code = Code(task.error_code) if task.error_code in known else Code.PROVIDER_ERROR
    message = task.error_message or f"The task was {_STATUS[task.status]}."
    return TollbridgeError(code, message, details={"task_id": task.id})


def _cost(task: tasks_pb2.Task) -> float:
    """A JSON number with all its decimals, which a float might not have."""
    return cast("float", msgspec.Raw(usd_number(task.charge_nano_usd).encode()))
