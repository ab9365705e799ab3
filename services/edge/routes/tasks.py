"""Long jobs over HTTP: `/tasks`, beside the routes of each kind of job and of the files that they make."""

from collections.abc import Callable

from fastapi import APIRouter, Request, Response

from chassis.pipe import PipeClient
from pricing.prices import usd_text
from services.edge.catalogue import Catalogue
from services.edge.http.json_http import Identify, answer, context, page, page_limit, rfc3339
from services.edge.idempotency.claims import Claims
from services.edge.idempotency.task_claims import TaskClaims
from services.edge.limits.limits import Limits
from services.edge.openapi.description import described
from services.edge.routes import files, images, speeches, task_events, task_webhooks, videos
from services.edge.routes.task_shapes import CANCEL_TASK, GET_TASK, LIST_TASKS, Task, TaskError, TaskFile
from services.edge.task_desk import TIMEOUT_S, TaskDesk, file_link
from tollbridge.tasks.v1 import tasks_pb2

_STATUS = {
    tasks_pb2.TASK_STATUS_PENDING: "pending",
    tasks_pb2.TASK_STATUS_RUNNING: "running",
    tasks_pb2.TASK_STATUS_SUCCEEDED: "succeeded",
    tasks_pb2.TASK_STATUS_FAILED: "failed",
    tasks_pb2.TASK_STATUS_CANCELLED: "cancelled",
}


def routes(
    *,
    tasks: PipeClient,
    claims: Claims,
    limits: Limits,
    catalogue: Catalogue,
    identify: Identify,
    is_draining: Callable[[], bool] = lambda: False,
) -> APIRouter:
    """The routes; another customer's task or file is not found."""
    router = APIRouter()
    desk = TaskDesk(tasks=tasks, keys=TaskClaims(claims=claims), catalogue=catalogue, limits=limits)
    router.include_router(task_webhooks.routes(tasks=tasks, identify=identify))
    for kind in (images, speeches, videos, files):
        router.include_router(kind.routes(desk=desk, identify=identify))
    router.include_router(
        task_events.routes(follow=desk.follow, show=shown, identify=identify, is_draining=is_draining)
    )

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
        task = await desk.get(task_id, caller, wait_s=0)
        return answer(shown(task, request), request_id=context(request).request_id)

    @router.post("/tasks/{task_id}/cancel", openapi_extra=described(CANCEL_TASK))
    async def cancel_task(request: Request, task_id: str) -> Response:
        caller = await identify(request)
        task = await desk.cancel(task_id, caller)
        return answer(shown(task, request), request_id=context(request).request_id)

    return router


def shown(task: tasks_pb2.Task, request: Request) -> Task:
    """A task as its customer sees it."""
    error: TaskError | None = {"code": task.error_code, "message": task.error_message} if task.error_code else None
    files: list[TaskFile] = [
        {"url": file_link(request, each), "content_type": each.content_type, "bytes": each.bytes}
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
