"""Webhooks to customers, as Standard Webhooks (standardwebhooks.com) has them: signed, to public addresses only.

One delivery is one POST: no redirect is followed, no proxy or cookie is used, and of the answer only its status counts.
When to try again is the caller's to know. A webhook may come twice; its id is the same then.
"""

import asyncio
import base64
import dataclasses
import hashlib
import hmac
import secrets
import time
from collections.abc import Sequence

import aiohttp
from yarl import URL

from upstream.pinned import Pinned
from upstream.public_address import Forbidden, Network, checked_url, resolve

SECRET_PREFIX = "whsec_"
SECRET_BYTES = 24
TIMEOUT_S = 10.0
GONE = 410


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """One message. `id` is the same at each try; the secret is for the receiver's eyes only."""

    id: str
    url: str
    secret: str = dataclasses.field(repr=False)
    body: bytes


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """What became of one try. `problem` is empty when it was taken; `final` when another try is in vain."""

    problem: str = ""
    final: bool = False


def new_secret() -> str:
    """A secret that signs."""
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def signature(secret: str, *, message_id: str, timestamp_s: int, body: bytes) -> str:
    """The value of `webhook-signature`."""
    key = base64.b64decode(secret.removeprefix(SECRET_PREFIX))
    digest = hmac.digest(key, f"{message_id}.{timestamp_s}.".encode() + body, hashlib.sha256)
    return f"v1,{base64.b64encode(digest).decode()}"


async def send(webhook: Webhook, *, allowed: Sequence[Network]) -> Delivery:
    """Tries once; never raises but when cancelled."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            status = await _post(webhook, allowed)
    except Forbidden as error:
        return Delivery(problem=f"the URL is refused: {error}")
    except TimeoutError:
        return Delivery(problem=f"no answer within {TIMEOUT_S:.0f} s")
    except (aiohttp.ClientError, OSError, ValueError) as error:
        return Delivery(problem=f"no answer: {type(error).__name__}")
    if 200 <= status < 300:
        return Delivery()
    return Delivery(problem=f"answered with status {status}", final=status == GONE)


async def _post(webhook: Webhook, allowed: Sequence[Network]) -> int:
    addresses = await resolve(checked_url(webhook.url, allowed=allowed), allowed=allowed)
    now_s = int(time.time())
    headers = {
        "content-type": "application/json",
        "user-agent": "tollbridge",
        "webhook-id": webhook.id,
        "webhook-timestamp": str(now_s),
        "webhook-signature": signature(webhook.secret, message_id=webhook.id, timestamp_s=now_s, body=webhook.body),
    }
    connector = aiohttp.TCPConnector(resolver=Pinned(addresses), use_dns_cache=False, force_close=True)
    async with (
        aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False) as session,
        session.post(URL(webhook.url), data=webhook.body, headers=headers, allow_redirects=False) as response,
    ):
        return response.status
