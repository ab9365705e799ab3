"""`/admin/keys`: any customer's keys."""

from fastapi import APIRouter, Request, Response

from chassis.errors import Code
from chassis.pipe import PipeClient
from services.edge.catalogue import Catalogue
from services.edge.http.json_http import Forget, answer, context, decode
from services.edge.openapi.description import (
    ID_OR_NOTHING,
    IDEMPOTENCY_KEY,
    PAGE,
    Description,
    Page,
    Parameter,
    described,
)
from services.edge.routes.keys import Key, KeyBody, NewKey, end_key, keys_page, make_key, with_model_ids

_TAG = "Admin"
OF_CUSTOMER = Parameter(name="customer_id", about="Of this customer alone.", shape=ID_OR_NOTHING)
CREATE = Description(
    name="createAnyKey",
    tag=_TAG,
    summary="Makes a key for a customer",
    about="Without `customer_id` it is the default customer's.",
    access="admin",
    body=KeyBody,
    example={"name": "ci"},
    answer=NewKey,
    status=201,
    parameters=(IDEMPOTENCY_KEY,),
    refuses=frozenset({Code.NOT_FOUND, Code.CONFLICT, Code.IDEMPOTENCY_MISMATCH}),
)
LIST = Description(
    name="listAllKeys",
    tag=_TAG,
    summary="All keys, or a customer's",
    access="admin",
    answer=Page[Key],
    parameters=(OF_CUSTOMER, *PAGE),
)
REVOKE = Description(
    name="revokeAnyKey",
    tag=_TAG,
    summary="Ends a key, everywhere within a second",
    access="admin",
    answer=Key,
    refuses=frozenset({Code.NOT_FOUND}),
)


def routes(*, auth: PipeClient, billing: PipeClient, catalogue: Catalogue, forget: Forget) -> APIRouter:
    """The routes; access is checked by whoever includes them."""
    router = APIRouter()

    @router.post("/keys", openapi_extra=described(CREATE))
    async def create_key(request: Request) -> Response:
        body = await with_model_ids(await decode(request, KeyBody), catalogue)
        made = await make_key(auth, billing, body, customer_id=body.customer_id, request=request)
        return answer(made, request_id=context(request).request_id, status=201)

    @router.get("/keys", openapi_extra=described(LIST))
    async def list_keys(request: Request) -> Response:
        owner = request.query_params.get("customer_id", "")
        found = await keys_page(auth, billing, customer_id=owner, request=request)
        return answer(found, request_id=context(request).request_id)

    @router.delete("/keys/{key_id}", openapi_extra=described(REVOKE))
    async def revoke_key(request: Request, key_id: str) -> Response:
        ended = await end_key(auth, billing, key_id, customer_id="", forget=forget)
        return answer(ended, request_id=context(request).request_id)

    return router
