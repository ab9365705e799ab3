"""What a provider's answer links to, fetched so that no answer can make us call our own network.

A link to the provider's own address (the scheme, host and port of its base URL, which an operator wrote) is followed as
it is. Any other must be https and lead to a public address, which is judged once and then connected to; so must each
redirect. No credential goes along. The bytes are bounded, and so is the time.
"""

import asyncio
from collections.abc import Sequence
from urllib.parse import SplitResult, urljoin, urlsplit

import aiohttp
from yarl import URL

from upstream.client import HttpCall, UpstreamClient
from upstream.outcome import AnswerTooLarge, AttemptFailed, Outcome, ProviderMisbehaved
from upstream.pinned import Pinned
from upstream.public_address import Forbidden, Network, checked_url, resolve
from upstream.route import Route

MAX_REDIRECTS = 3
TIMEOUT_S = 120.0
CONNECT_TIMEOUT_S = 10.0
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_READ_BYTES = 256 * 1024


async def fetch(url: str, route: Route, *, client: UpstreamClient, max_bytes: int) -> bytes:
    """The bytes behind a link that came in an answer on this route. Raises AttemptFailed, AnswerTooLarge."""
    if _is_own(url, route):
        return await _from_provider(url, route, client=client, max_bytes=max_bytes)
    try:
        async with asyncio.timeout(TIMEOUT_S):
            return await _from_elsewhere(url, max_bytes=max_bytes, allowed=())
    except Forbidden as error:
        raise ProviderMisbehaved(f"the provider's answer holds a link that can't be followed: {error}") from None
    except TimeoutError as error:
        raise AttemptFailed(Outcome.TIMED_OUT, "the provider's link did not answer in time") from error
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise ProviderMisbehaved("the provider's link does not work") from error


def _is_own(url: str, route: Route) -> bool:
    try:
        return _origin(urlsplit(url)) == _origin(urlsplit(route.base_url)) != ("", "", None)
    except ValueError:
        return False


def _origin(parts: SplitResult) -> tuple[str, str, int | None]:
    return parts.scheme, parts.hostname or "", parts.port


async def _from_provider(url: str, route: Route, *, client: UpstreamClient, max_bytes: int) -> bytes:
    response = await client.send(HttpCall(method="GET", url=url, headers={}, body=b""), timeouts=route.timeouts)
    try:
        if response.status != 200:
            raise ProviderMisbehaved("the provider's link does not work")
        return await response.read(max_bytes)
    finally:
        response.close()


async def _from_elsewhere(url: str, *, max_bytes: int, allowed: Sequence[Network]) -> bytes:
    for _ in range(1 + MAX_REDIRECTS):
        found = await _one(url, max_bytes=max_bytes, allowed=allowed)
        if isinstance(found, bytes):
            return found
        url = urljoin(url, found)
    raise ProviderMisbehaved("the provider's link redirects too often")


async def _one(url: str, *, max_bytes: int, allowed: Sequence[Network]) -> bytes | str:
    """The bytes, or where a redirect leads."""
    addresses = await resolve(checked_url(url, allowed=allowed), allowed=allowed)
    connector = aiohttp.TCPConnector(resolver=Pinned(addresses), use_dns_cache=False, force_close=True)
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
    async with (
        aiohttp.ClientSession(
            connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False, timeout=timeout
        ) as session,
        session.get(
            URL(url, encoded=True),
            headers={"user-agent": "tollbridge", "accept-encoding": "identity"},
            allow_redirects=False,
            auto_decompress=False,
        ) as response,
    ):
        if response.status in _REDIRECTS and response.headers.get("location"):
            return str(response.headers["location"])
        if response.status != 200:
            raise ProviderMisbehaved(f"the provider's link answers with status {response.status}")
        return await _bounded(response, max_bytes)


async def _bounded(response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    read = bytearray()
    async for part in response.content.iter_chunked(_READ_BYTES):
        read += part
        if len(read) > max_bytes:
            raise AnswerTooLarge(f"what the provider links to is larger than {max_bytes} bytes")
    return bytes(read)
