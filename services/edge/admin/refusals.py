"""`GET /admin/refusals`: how often requests were refused, by key, code and minute."""

from typing import TypedDict

from fastapi import APIRouter, Request, Response

from chassis.pipe import PipeClient
from services.edge.admin.keys import OF_CUSTOMER
from services.edge.http.json_http import answer, context, moment, page, page_limit, rfc3339
from services.edge.openapi.description import ID_OR_NOTHING, PAGE, TIME, Description, Page, Parameter, described
from tollbridge.auth.v1 import auth_pb2

TIMEOUT_S = 3.0


class Refusal(TypedDict):
    """So many requests with a key, or with none that is known, were refused for one reason within one minute."""

    id: str
    minute: TIME
    key_id: str | None
    code: str
    requests: int


LIST = Description(
    name="listRefusals",
    tag="Admin",
    summary="How often requests were refused, by key, code and minute",
    about="`code` is what the client was told, before or in its answer. The newest minute first; kept for 30 days.",
    access="admin",
    answer=Page[Refusal],
    parameters=(
        OF_CUSTOMER,
        Parameter(name="key_id", about="With this key alone.", shape=ID_OR_NOTHING),
        Parameter(name="code", about="For this reason alone."),
        Parameter(name="from", about="Since then, with the minute that it falls in.", shape=TIME),
        Parameter(name="to", about="In minutes that begin before it.", shape=TIME),
        *PAGE,
    ),
)


def routes(*, auth: PipeClient) -> APIRouter:
    """The route; access is checked by whoever includes it."""
    router = APIRouter()

    @router.get("/refusals", openapi_extra=described(LIST))
    async def list_refusals(request: Request) -> Response:
        asked = request.query_params
        reply = await auth.call(
            "ListRefusals",
            auth_pb2.ListRefusalsRequest(
                after=asked.get("after", ""),
                limit=page_limit(request),
                customer_id=asked.get("customer_id", ""),
                key_id=asked.get("key_id", ""),
                code=asked.get("code", ""),
                from_us=moment(request, "from"),
                to_us=moment(request, "to"),
            ),
            auth_pb2.ListRefusalsResponse,
            timeout_s=TIMEOUT_S,
        )
        shown = page([_shown(each) for each in reply.counts], has_more=reply.has_more)
        return answer(shown, request_id=context(request).request_id)

    return router


def _shown(found: auth_pb2.RefusalCount) -> Refusal:
    return {
        "id": f"{found.minute}.{found.key_id}.{found.code}",
        "minute": rfc3339(found.minute * 60_000_000) or "",
        "key_id": found.key_id or None,
        "code": found.code,
        "requests": found.count,
    }
