"""`/openapi.json` and `/docs`: what this instance serves, for machines and for people. No key is needed."""

from typing import Any

from fastapi import APIRouter, Request, Response

from chassis.errors import Code
from services.edge.http.json_http import context
from services.edge.openapi.description import Description, Media, Parameter, described
from services.edge.openapi.document import Documents
from services.edge.openapi.page import CONTENT_SECURITY_POLICY

_TAG = "Instance"
_SURFACE = Parameter(name="surface", about="The prefix of the one surface to describe; all of them without it.")
_REFUSES = frozenset({Code.NOT_FOUND})
OPENAPI = Description(
    name="getOpenapi",
    tag=_TAG,
    summary="This document",
    access="open",
    answer=dict[str, Any],
    parameters=(_SURFACE,),
    refuses=_REFUSES,
)
DOCS = Description(
    name="getDocs",
    tag=_TAG,
    summary="The same as a page",
    access="open",
    media=(Media(content_type="text/html"),),
    parameters=(_SURFACE,),
    refuses=_REFUSES,
)
_HEADERS = {"x-content-type-options": "nosniff", "cache-control": "no-cache"}


def routes(*, documents: Documents) -> APIRouter:
    """The routes."""
    router = APIRouter()

    @router.get("/openapi.json", openapi_extra=described(OPENAPI))
    async def get_openapi(request: Request) -> Response:
        found = await documents.get(request.query_params.get("surface"))
        headers = _HEADERS | {"x-request-id": context(request).request_id, "access-control-allow-origin": "*"}
        return Response(content=found.text, media_type="application/json", headers=headers)

    @router.get("/docs", openapi_extra=described(DOCS))
    async def get_docs(request: Request) -> Response:
        found = await documents.get(request.query_params.get("surface"))
        headers = _HEADERS | {
            "x-request-id": context(request).request_id,
            "content-security-policy": CONTENT_SECURITY_POLICY,
            "referrer-policy": "no-referrer",
        }
        return Response(content=found.page, media_type="text/html", headers=headers)

    return router
