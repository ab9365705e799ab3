"""One way to send a call, whatever answers it: over the network, or by the sandbox in this process."""

import re

from upstream.attempt import classify
from upstream.client import HttpCall, UpstreamClient, UpstreamResponse
from upstream.route import Route, WireProtocol
from upstream.sandbox.provider import Sandbox

MAX_ERROR_BYTES = 64 * 1024


async def send(route: Route, call: HttpCall, *, client: UpstreamClient, sandbox: Sandbox) -> UpstreamResponse:
    """Sends one attempt's call and returns its answer when that is a success (2xx).

    Anything else is read, classified and raised as AttemptFailed. The caller owns the answer and closes it.
    """
    seam = sandbox if route.protocol is WireProtocol.SANDBOX else client
    response = await seam.send(call, timeouts=route.timeouts)
    if 200 <= response.status < 300:
        return response
    try:
        body = await response.read(MAX_ERROR_BYTES)
    finally:
        response.close()
    raise classify(response.status, response.headers, _in_our_words(body, route), is_rare=call.is_rare)


def _in_our_words(body: bytes, route: Route) -> bytes:
    """A provider's error, with the public id where it names its own model: clients may read it."""
    theirs = re.escape(route.provider_model.encode())
    return re.sub(rb"(?<![\w./-])" + theirs + rb"(?![\w/-])", lambda _: route.model.encode(), body)
