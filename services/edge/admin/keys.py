"""`/admin/keys`: any customer's keys."""

from fastapi import APIRouter, Request, Response

from chassis.pipe import PipeClient
from services.edge.catalogue import Catalogue
from services.edge.json_http import answer, context, decode
from services.edge.routes.keys import KeyBody, end_key, keys_page, make_key, with_model_ids


def routes(*, auth: PipeClient, billing: PipeClient, catalogue: Catalogue) -> APIRouter:
    """The routes; access is checked by whoever includes them."""
    router = APIRouter()

    @router.post("/keys")
    async def create_key(request: Request) -> Response:
        body = await with_model_ids(await decode(request, KeyBody), catalogue)
        made = await make_key(auth, billing, body, customer_id=body.customer_id, request=request)
        return answer(made, request_id=context(request).request_id, status=201)

    @router.get("/keys")
    async def list_keys(request: Request) -> Response:
        owner = request.query_params.get("customer_id", "")
        found = await keys_page(auth, billing, customer_id=owner, request=request)
        return answer(found, request_id=context(request).request_id)

    @router.delete("/keys/{key_id}")
    async def revoke_key(request: Request, key_id: str) -> Response:
        ended = await end_key(auth, billing, key_id, customer_id="")
        return answer(ended, request_id=context(request).request_id)

    return router
