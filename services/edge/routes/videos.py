"""`/videos` in OpenAI's shape, over tasks: a video's id is its task's."""

import functools
from collections.abc import Mapping
from typing import Any, cast

import msgspec
from fastapi import APIRouter, Request, Response

from chassis.errors import Code, TollbridgeError
from chassis.ids import canonical
from pricing.prices import usd_number
from services.edge.bodies.request_body import MAX_BODY_BYTES, aside
from services.edge.bodies.video_request import MAX_FORM_BYTES, VideoBody, is_form, read
from services.edge.http.json_http import Identify, answer, body_of, context, page_limit
from services.edge.openapi.description import described
from services.edge.routes.files import sent
from services.edge.routes.video_shapes import (
    CREATE_VIDEO,
    DELETE_VIDEO,
    GET_VIDEO,
    GET_VIDEO_CONTENT,
    LIST_VIDEOS,
    DeletedVideo,
    Video,
    VideoError,
    Videos,
    VideoUsage,
)
from services.edge.task_desk import SUCCEEDED, TaskDesk, preferred_wait_s
from tollbridge.tasks.v1 import tasks_pb2

KIND = "video"
_SECOND_US = 1_000_000
_STATUS = {
    tasks_pb2.TASK_STATUS_PENDING: "queued",
    tasks_pb2.TASK_STATUS_RUNNING: "in_progress",
    tasks_pb2.TASK_STATUS_SUCCEEDED: "completed",
    tasks_pb2.TASK_STATUS_FAILED: "failed",
    tasks_pb2.TASK_STATUS_CANCELLED: "failed",
}


def routes(*, desk: TaskDesk, identify: Identify) -> APIRouter:
    """The routes; another customer's video, one that was deleted, and another kind of task are not found."""
    router = APIRouter()

    @router.post("/videos", openapi_extra=described(CREATE_VIDEO))
    async def create_video(request: Request) -> Response:
        caller = await identify(request)
        video, body = await _read(request)
        wait_s = preferred_wait_s(request, otherwise_s=0.0)
        async with desk.ordered(request, caller, kind=KIND, model=video.model, body=body, wait_s=wait_s) as ordered:
            task, claimed, is_replayed = ordered
        response = answer(shown(task, _order_of(video)), request_id=claimed.task_id)
        if is_replayed:
            response.headers["idempotency-replayed"] = "true"
        return response

    @router.get("/videos", openapi_extra=described(LIST_VIDEOS))
    async def list_videos(request: Request) -> Response:
        caller = await identify(request)
        rows, has_more = await desk.list_with_orders(
            caller,
            kind=KIND,
            limit=page_limit(request, otherwise=20, most=100),
            after=_after(request),
            oldest_first=_oldest_first(request),
        )
        videos = [shown(task, msgspec.json.decode(order)) for task, order in rows]
        page: Videos = {
            "object": "list",
            "data": videos,
            "first_id": videos[0]["id"] if videos else None,
            "last_id": videos[-1]["id"] if videos else None,
            "has_more": has_more,
        }
        return answer(page, request_id=context(request).request_id)

    @router.get("/videos/{video_id}", openapi_extra=described(GET_VIDEO))
    async def get_video(request: Request, video_id: str) -> Response:
        caller = await identify(request)
        task, order = await desk.get_with_order(canonical(video_id, "video_id"), caller)
        return answer(shown(_video(task), msgspec.json.decode(order)), request_id=context(request).request_id)

    @router.get("/videos/{video_id}/content", openapi_extra=described(GET_VIDEO_CONTENT))
    async def get_content(request: Request, video_id: str) -> Response:
        caller = await identify(request)
        _check_variant(request)
        task = _video(await desk.get(canonical(video_id, "video_id"), caller, wait_s=0))
        file_id = _file_of(task)
        return await sent(request, file_id, functools.partial(desk.file, file_id, customer_id=caller.customer_id))

    @router.delete("/videos/{video_id}", openapi_extra=described(DELETE_VIDEO))
    async def delete_video(request: Request, video_id: str) -> Response:
        caller = await identify(request)
        task = _video(await desk.get(canonical(video_id, "video_id"), caller, wait_s=0))
        await desk.delete(caller, task_id=task.id)
        gone: DeletedVideo = {"id": task.id, "object": "video.deleted", "deleted": True}
        return answer(gone, request_id=context(request).request_id)

    return router


def shown(task: tasks_pb2.Task, order: Mapping[str, Any]) -> Video:
    """A task as OpenAI shows a video."""
    error: VideoError | None = None
    if task.status == tasks_pb2.TASK_STATUS_FAILED:
        error = {"code": task.error_code, "message": task.error_message}
    elif task.status == tasks_pb2.TASK_STATUS_CANCELLED:
        error = {"code": "cancelled", "message": "The video was cancelled."}
    video = {
        "id": task.id,
        "object": KIND,
        "model": task.model,
        "status": _STATUS[task.status],
        "progress": int(100 * task.progress),
        "created_at": task.created_at_us // _SECOND_US,
        "completed_at": task.finished_at_us // _SECOND_US if task.status == SUCCEEDED else None,
        "expires_at": task.results[0].expires_at_us // _SECOND_US if task.results else None,
        **order,
        "remixed_from_video_id": None,
        "error": error,
    }
    if task.status == SUCCEEDED:
        video["usage"] = _usage(task, order)
    return cast("Video", video)


def _usage(task: tasks_pb2.Task, order: Mapping[str, Any]) -> VideoUsage:
    cost = msgspec.Raw(usd_number(task.charge_nano_usd).encode())
    return {"seconds": float(order["seconds"]), "cost": cast("float", cost)}


async def _read(request: Request) -> tuple[VideoBody, bytes]:
    content_type = request.headers.get("content-type", "")
    most_bytes = MAX_FORM_BYTES if is_form(content_type) else MAX_BODY_BYTES
    body = await body_of(request, most_bytes=most_bytes)
    return await aside(body, read, body, content_type)


def _order_of(video: VideoBody) -> dict[str, str]:
    return {"prompt": video.prompt, "seconds": str(video.length_s), "size": video.picture_size}


def _video(task: tasks_pb2.Task) -> tasks_pb2.Task:
    if task.kind != KIND or task.deleted:
        raise TollbridgeError(Code.NOT_FOUND, "There is no such video.")
    return task


def _file_of(task: tasks_pb2.Task) -> str:
    if task.results:
        return task.results[0].file_id
    if task.status == SUCCEEDED:
        raise TollbridgeError(Code.NOT_FOUND, "This video's file is not kept any more.")
    raise TollbridgeError(Code.CONFLICT, f"This video is not completed: it is {_STATUS[task.status]}.")


def _after(request: Request) -> str:
    after = request.query_params.get("after", "")
    return canonical(after, "after") if after else ""


def _oldest_first(request: Request) -> bool:
    order = request.query_params.get("order", "desc")
    if order not in ("asc", "desc"):
        raise TollbridgeError(Code.INVALID_REQUEST, "order must be asc or desc.", details={"param": "order"})
    return order == "asc"


def _check_variant(request: Request) -> None:
    if request.query_params.get("variant", KIND) != KIND:
        message = "variant must be video: no other is made."
        raise TollbridgeError(Code.INVALID_REQUEST, message, details={"param": "variant"})
