"""`GET /.well-known/tollbridge/receipt-keys.json`: the public keys that receipts are checked with, as a JWK set.

Anybody may ask, so billing is asked at most once in KEPT_S; a new key is known here by then.
"""

import base64
import time
from typing import Literal, TypedDict

from fastapi import APIRouter, Request, Response

from chassis.pipe import PipeClient
from services.edge.http.json_http import answer, context, rfc3339
from services.edge.openapi.description import ASKING, TIME, Description, described
from tollbridge.billing.v1 import statements_pb2 as pb

PATH = "/.well-known/tollbridge/receipt-keys.json"
TIMEOUT_S = 2.0
KEPT_S = 5.0


class ReceiptKey(TypedDict):
    """A public key as a JWK (RFC 8037)."""

    kty: Literal["OKP"]
    crv: Literal["Ed25519"]
    x: str
    kid: str
    use: Literal["sig"]
    alg: Literal["EdDSA"]
    since: TIME | None


class ReceiptKeys(TypedDict):
    """A JWK set."""

    keys: list[ReceiptKey]


RECEIPT_KEYS = Description(
    name="getReceiptKeys",
    tag="Instance",
    summary="The public keys that receipts are checked with",
    access="open",
    answer=ReceiptKeys,
    refuses=ASKING,
)


def routes(*, statements: PipeClient) -> APIRouter:
    """The route."""
    router = APIRouter()
    keys = _Keys(statements)

    @router.get(PATH, openapi_extra=described(RECEIPT_KEYS))
    async def receipt_keys(request: Request) -> Response:
        found: ReceiptKeys = {"keys": await keys.get()}
        response = answer(found, request_id=context(request).request_id)
        response.headers["cache-control"] = f"public, max-age={KEPT_S:.0f}"
        return response

    return router


class _Keys:
    def __init__(self, statements: PipeClient) -> None:
        self._statements = statements
        self._kept: list[ReceiptKey] = []
        self._until_s = 0.0

    async def get(self) -> list[ReceiptKey]:
        if time.monotonic() >= self._until_s:
            reply = await self._statements.call(
                "ListReceiptKeys", pb.ListReceiptKeysRequest(), pb.ListReceiptKeysResponse, timeout_s=TIMEOUT_S
            )
            self._kept = [_jwk(key) for key in reply.keys]
            self._until_s = time.monotonic() + KEPT_S
        return self._kept


def _jwk(key: pb.ReceiptKey) -> ReceiptKey:
    x = base64.urlsafe_b64encode(key.public_key).rstrip(b"=").decode()
    return {
        "kty": "OKP",
        "crv": "Ed25519",
        "x": x,
        "kid": key.id,
        "use": "sig",
        "alg": "EdDSA",
        "since": rfc3339(key.since_us),
    }
