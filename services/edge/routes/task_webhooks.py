"""`/tasks/webhook_secret`: what the webhooks of a customer's tasks are signed with."""

from typing import Literal, TypedDict

from fastapi import APIRouter, Request, Response

from chassis.pipe import PipeClient
from services.edge.http.json_http import Identify, answer, context
from services.edge.openapi.description import Description, described
from tollbridge.tasks.v1 import tasks_pb2

TIMEOUT_S = 5.0


class WebhookSecret(TypedDict):
    """As Standard Webhooks has it: `whsec_` and base64."""

    object: Literal["webhook_secret"]
    secret: str


def _about(name: str, summary: str) -> Description:
    return Description(name=name, tag="Images and tasks", summary=summary, answer=WebhookSecret)


def routes(*, tasks: PipeClient, identify: Identify) -> APIRouter:
    """A customer's own."""
    router = APIRouter()
    shows = _about("getTaskWebhookSecret", "What the webhooks of one's tasks are signed with")
    renews = _about("renewTaskWebhookSecret", "Another secret; the former signs nothing any more")

    @router.get("/tasks/webhook_secret", openapi_extra=described(shows))
    async def get_secret(request: Request) -> Response:
        return await secret(request, renew=False)

    @router.post("/tasks/webhook_secret", openapi_extra=described(renews))
    async def renew_secret(request: Request) -> Response:
        return await secret(request, renew=True)

    async def secret(request: Request, *, renew: bool) -> Response:
        caller = await identify(request)
        reply = await tasks.call(
            "GetWebhookSecret",
            tasks_pb2.GetWebhookSecretRequest(customer_id=caller.customer_id, renew=renew),
            tasks_pb2.GetWebhookSecretResponse,
            timeout_s=TIMEOUT_S,
        )
        found: WebhookSecret = {"object": "webhook_secret", "secret": reply.secret}
        return answer(found, request_id=context(request).request_id)

    return router
