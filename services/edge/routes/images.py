"""`POST /images/generations`: images from a text, waited for or not, or as a stream."""

import base64
from typing import cast

from fastapi import APIRouter, Request, Response

from chassis.errors import Code, TollbridgeError
from services.edge.http.json_http import Caller, Identify, answer, body_of, context, parsed
from services.edge.openapi.description import described
from services.edge.routes.image_events import files_of, image_stream
from services.edge.routes.task_events import QUIET_S
from services.edge.routes.task_shapes import CREATE_IMAGE, Image, ImageBody, Images, image_usage
from services.edge.task_desk import ENDED, MAX_WAIT_S, TaskDesk, file_link, preferred_wait_s
from tollbridge.tasks.v1 import tasks_pb2


def routes(*, desk: TaskDesk, identify: Identify) -> APIRouter:
    """The route."""
    router = APIRouter()

    @router.post("/images/generations", openapi_extra=described(CREATE_IMAGE))
    async def create_image(request: Request) -> Response:
        caller = await identify(request)
        body = await body_of(request)
        image = parsed(body, ImageBody)
        problem = image.problem()
        if problem is not None:
            message = f"{problem[0]} is wrong: {problem[1]}."
            raise TollbridgeError(Code.INVALID_REQUEST, message, details={"param": problem[0]})
        wait_s = _wait_s(image, request)
        async with desk.ordered(request, caller, kind="image", model=image.model, body=body, wait_s=wait_s) as ordered:
            task, claimed, is_replayed = ordered
            response: Response
            if image.stream and wait_s > 0:
                response = image_stream(desk, task, image, caller, request)
            else:
                payload = await _payload(desk, task, image, caller, request)
                response = answer(payload, request_id=claimed.task_id)
        if is_replayed:
            response.headers["idempotency-replayed"] = "true"
        return response

    return router


def _wait_s(image: ImageBody, request: Request) -> float:
    """How long nothing at all is answered. A stream goes on after it, unless its client waits for nothing."""
    if image.stream:
        return min(QUIET_S, preferred_wait_s(request, otherwise_s=QUIET_S))
    at_once = context(request).surface.dialect.images_at_once
    return preferred_wait_s(request, otherwise_s=0.0 if at_once else MAX_WAIT_S)


async def _payload(desk: TaskDesk, task: tasks_pb2.Task, image: ImageBody, caller: Caller, request: Request) -> Images:
    """OpenAI's shape when the task succeeded, the pending answer while it has not ended. Raises what it failed with."""
    created = task.created_at_us // 1_000_000
    if task.status not in ENDED:
        return {
            "created": created,
            "data": [],
            "task_id": task.id,
            "provider_task_id": task.provider_task_id or None,
            "status": "pending",  # as documented, also when a worker has it already: `/tasks` says more
            "model": task.model,
        }
    data: list[Image] = []
    for result in files_of(task):
        if image.response_format == "b64_json":
            content = await desk.whole(result.file_id, caller)
            data.append({"b64_json": base64.b64encode(content).decode()})
        else:
            data.append({"url": file_link(request, result)})
    return {"created": created, "data": data, "task_id": task.id, "usage": image_usage(task), **_said(image)}


def _said(image: ImageBody) -> Images:
    """What the client chose, as OpenAI repeats it."""
    fields = ("background", "output_format", "quality", "size")
    chosen = {name: getattr(image, name) for name in fields}
    return cast("Images", {name: value for name, value in chosen.items() if value not in (None, "auto")})
