"""`GET /.well-known/tollbridge/receipt-keys.json`: the public keys that receipts are checked with, as a JWK set.

Anybody may ask, so billing is asked at most once in KEPT_S; a new key is known here by then.
"""

import base64
import time

from fastapi import APIRouter, Request, Response

from chassis.pipe import PipeClient
from services.edge.json_http import answer, context, rfc3339
from tollbridge.billing.v1 import statements_pb2 as pb

PATH = "/.well-known/tollbridge/receipt-keys.json"
TIMEOUT_S = 2.0
KEPT_S = 5.0


def routes(*, statements: PipeClient) -> APIRouter:
    """The route."""
    router = APIRouter()
    keys = _Keys(statements)

    @router.get(PATH)
    async def receipt_keys(request: Request) -> Response:
        response = answer({"keys": await keys.get()}, request_id=context(request).request_id)
        response.headers["cache-control"] = f"public, max-age={KEPT_S:.0f}"
        return response

    return router


class _Keys:
    def __init__(self, statements: PipeClient) -> None:
        self._statements = statements
        self._kept: list[dict[str, object]] = []
        self._until_s = 0.0

    async def get(self) -> list[dict[str, object]]:
        if time.monotonic() >= self._until_s:
            reply = await self._statements.call(
                "ListReceiptKeys", pb.ListReceiptKeysRequest(), pb.ListReceiptKeysResponse, timeout_s=TIMEOUT_S
            )
            self._kept = [_jwk(key) for key in reply.keys]
            self._until_s = time.monotonic() + KEPT_S
        return self._kept


def _jwk(key: pb.ReceiptKey) -> dict[str, object]:
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
