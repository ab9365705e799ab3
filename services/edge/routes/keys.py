"""`/keys` and `/admin/keys`: making, listing and ending API keys. A secret is shown once, when its key is made."""

import hashlib
from collections.abc import Sequence
from typing import Annotated, Literal, TypedDict

import msgspec
from fastapi import APIRouter, Request, Response
from msgspec import Meta

from chassis.errors import Code
from chassis.ids import uuid7
from chassis.pipe import PipeClient
from services.edge.catalogue import Catalogue
from services.edge.http.json_http import (
    Forget,
    Identify,
    answer,
    context,
    decode,
    microseconds,
    page,
    page_limit,
    rfc3339,
)
from services.edge.idempotency.claims import key_of
from services.edge.openapi.description import IDEMPOTENCY_KEY, PAGE, TIME, Description, Page, described
from services.edge.routes.spending import ShownCap, SpendCapBody, cap_message, cap_of, shown_caps
from services.edge.spending.spend_caps import key_owner
from tollbridge.auth.v1 import auth_pb2

TIMEOUT_S = 2.0
MAX_LIMIT = 10**12
"""Auth takes no more; beyond 64 bits it could not even be asked."""
LONGEST_AS_IT_IS = 100
"""The owners' ids of calls have 200 characters, also with what stands before and after a client's key."""


_Limit = Annotated[int, Meta(ge=0, le=MAX_LIMIT)]


class KeyBody(msgspec.Struct, frozen=True, kw_only=True):
    """Asks for a key; what is left out is the plan's."""

    name: str = ""
    customer_id: str = ""
    models: tuple[str, ...] = ()
    requests_per_minute: _Limit = 0
    tokens_per_minute: _Limit = 0
    concurrent: _Limit = 0
    spend_cap: SpendCapBody | None = None
    expires_at: TIME | None = None
    allowed_ips: tuple[str, ...] = ()


class Key(TypedDict):
    """An API key without its secret; a limit that is null is the plan's."""

    id: str
    object: Literal["key"]
    customer_id: str
    name: str
    prefix: str
    models: list[str]
    requests_per_minute: int | None
    tokens_per_minute: int | None
    concurrent: int | None
    allowed_ips: list[str]
    expires_at: TIME | None
    created_at: TIME | None
    revoked_at: TIME | None
    made_by: str | None
    spend_cap: ShownCap | None


class NewKey(Key):
    """A key and its secret, which is shown this once."""

    key: str


_TAG = "Account"
LIST_KEYS = Description(name="listKeys", tag=_TAG, summary="One's keys", answer=Page[Key], parameters=PAGE)
CREATE_KEY = Description(
    name="createKey",
    tag=_TAG,
    summary="Makes a key",
    about="Only a key without restrictions may, and the new one gets no more than the plan.",
    body=KeyBody,
    example={"name": "ci", "spend_cap": {"amount_usd": "5.00", "per": "day"}},
    answer=NewKey,
    status=201,
    parameters=(IDEMPOTENCY_KEY,),
    refuses=frozenset({Code.PERMISSION_DENIED, Code.CONFLICT, Code.IDEMPOTENCY_MISMATCH}),
)
REVOKE_KEY = Description(
    name="revokeKey",
    tag=_TAG,
    summary="Ends a key, everywhere within a second",
    answer=Key,
    refuses=frozenset({Code.NOT_FOUND, Code.PERMISSION_DENIED}),
)


def routes(
    *, auth: PipeClient, billing: PipeClient, catalogue: Catalogue, identify: Identify, forget: Forget
) -> APIRouter:
    """A customer's own keys."""
    router = APIRouter()

    @router.get("/keys", openapi_extra=described(LIST_KEYS))
    async def list_keys(request: Request) -> Response:
        caller = await identify(request)
        found = await keys_page(auth, billing, customer_id=caller.customer_id, request=request)
        return answer(found, request_id=context(request).request_id)

    @router.post("/keys", openapi_extra=described(CREATE_KEY))
    async def create_key(request: Request) -> Response:
        caller = await identify(request)
        body = await with_model_ids(await decode(request, KeyBody), catalogue)
        made = await make_key(
            auth, billing, body, customer_id=caller.customer_id, request=request, made_by=caller.key_id
        )
        return answer(made, request_id=context(request).request_id, status=201)

    @router.delete("/keys/{key_id}", openapi_extra=described(REVOKE_KEY))
    async def revoke_key(request: Request, key_id: str) -> Response:
        caller = await identify(request)
        ended = await end_key(
            auth, billing, key_id, customer_id=caller.customer_id, by_key_id=caller.key_id, forget=forget
        )
        return answer(ended, request_id=context(request).request_id)

    return router


async def keys_page(auth: PipeClient, billing: PipeClient, *, customer_id: str, request: Request) -> Page[Key]:
    """One page of keys, of one customer or (`customer_id` empty) of everybody."""
    reply = await auth.call(
        "ListKeys",
        auth_pb2.ListKeysRequest(
            customer_id=customer_id,
            limit=page_limit(request),
            after=request.query_params.get("after", ""),
        ),
        auth_pb2.ListKeysResponse,
        timeout_s=TIMEOUT_S,
    )
    return page(await _shown(billing, reply.keys), has_more=reply.has_more)


async def with_model_ids(body: KeyBody, catalogue: Catalogue) -> KeyBody:
    """The body with ids in the place of aliases: what a key may use is told by ids. Raises UNAVAILABLE."""
    if not body.models:
        return body
    return msgspec.structs.replace(body, models=tuple(await catalogue.ids_of(body.models)))


async def make_key(
    auth: PipeClient, billing: PipeClient, body: KeyBody, *, customer_id: str, request: Request, made_by: str = ""
) -> NewKey:
    """Makes a key and returns it with its secret. An Idempotency-Key makes it once.

    `made_by` is the customer's key that asks; auth then lets it neither be restricted nor exceed the plan.
    """
    message = auth_pb2.CreateKeyRequest(
        request_id=call_id(request, whose=customer_id if made_by else "admin"),
        customer_id=customer_id,
        name=body.name,
        models=body.models,
        limits=auth_pb2.Limits(
            requests_per_minute=body.requests_per_minute,
            tokens_per_minute=body.tokens_per_minute,
            concurrent=body.concurrent,
        ),
        spend_cap=cap_message(body.spend_cap),
        allowed_ips=body.allowed_ips,
        expires_at_us=0 if body.expires_at is None else microseconds(body.expires_at, param="expires_at"),
        made_by=made_by,
    )
    reply = await auth.call("CreateKey", message, auth_pb2.CreateKeyResponse, timeout_s=TIMEOUT_S)
    return {**(await _shown(billing, [reply.key]))[0], "key": reply.secret}


async def end_key(
    auth: PipeClient, billing: PipeClient, key_id: str, *, customer_id: str, by_key_id: str = "", forget: Forget
) -> Key:
    """Revokes a key; `customer_id` and `by_key_id` empty let any key be revoked, which is an operator's right."""
    reply = await auth.call(
        "RevokeKey",
        auth_pb2.RevokeKeyRequest(request_id=str(uuid7()), key_id=key_id, customer_id=customer_id, by_key_id=by_key_id),
        auth_pb2.RevokeKeyResponse,
        timeout_s=TIMEOUT_S,
    )
    forget(key_id=key_id)
    return (await _shown(billing, [reply.key]))[0]


def call_id(request: Request, *, whose: str) -> str:
    """What makes a write idempotent: the client's Idempotency-Key within its own name space, else a new id.

    Raises INVALID_REQUEST for a key that can't be.
    """
    given = key_of(request.headers.raw)
    if given is None:
        return str(uuid7())
    return f"{whose}:{given if len(given) <= LONGEST_AS_IT_IS else hashlib.sha256(given.encode()).hexdigest()}"


async def _shown(billing: PipeClient, keys: Sequence[auth_pb2.ApiKey]) -> list[Key]:
    """Keys without their secrets, with what was spent under their caps."""
    caps = await shown_caps(billing, [cap_of(key_owner(key.id), key) for key in keys])
    return [_fields(key, cap) for key, cap in zip(keys, caps, strict=True)]


def _fields(key: auth_pb2.ApiKey, spend_cap: ShownCap | None) -> Key:
    return {
        "id": key.id,
        "object": "key",
        "customer_id": key.customer_id,
        "name": key.name,
        "prefix": key.prefix,
        "models": list(key.models),
        "requests_per_minute": key.limits.requests_per_minute or None,
        "tokens_per_minute": key.limits.tokens_per_minute or None,
        "concurrent": key.limits.concurrent or None,
        "allowed_ips": list(key.allowed_ips),
        "expires_at": rfc3339(key.expires_at_us),
        "created_at": rfc3339(key.created_at_us),
        "revoked_at": rfc3339(key.revoked_at_us),
        "made_by": key.made_by or None,
        "spend_cap": spend_cap,
    }
