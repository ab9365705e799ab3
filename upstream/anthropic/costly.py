"""Messages fields that cost money or change the model beyond what a route prices: refused, never passed on unpriced."""

import re
from collections.abc import Mapping

import msgspec

from chassis.errors import Code, TollbridgeError
from pricing.prices import Rates

COSTLY_FIELDS = frozenset({"container", "fallbacks", "inference_geo", "mcp_servers"})
_HARMLESS = {"service_tier": ("auto", "standard_only"), "speed": ("standard",)}
_HOUR_CACHE = re.compile(rb'"ttl"\s*:\s*"1h"')


def refuse_costly(body: Mapping[str, object], *, rates: Rates | None = None) -> None:
    """Raises TollbridgeError(INVALID_REQUEST, details `param`) for a field that the route does not price."""
    for name in COSTLY_FIELDS & body.keys():
        if _plain(body[name]) is not None:
            raise _refusal(name)
    for name, harmless in _HARMLESS.items():
        if _plain(body.get(name)) not in (None, *harmless):
            raise _refusal(name)
    tools = _plain(body.get("tools"))
    for tool in tools if isinstance(tools, list) else []:
        if isinstance(tool, dict) and tool.get("type") not in (None, "custom"):
            raise _refusal("tools")
    if rates is not None and rates.cache_write_1h:
        return
    for name in ("system", "messages", "tools", "cache_control"):
        value = body.get(name)
        raw = bytes(value) if isinstance(value, msgspec.Raw) else msgspec.json.encode(value)
        if _HOUR_CACHE.search(raw):
            raise _refusal("cache_control.ttl")


def _refusal(name: str) -> TollbridgeError:
    message = f"`{name}` is not offered here: it costs more than this model's price covers"
    return TollbridgeError(Code.INVALID_REQUEST, message, details={"param": name})


def _plain(value: object) -> object:
    return msgspec.json.decode(value) if isinstance(value, msgspec.Raw) else value
