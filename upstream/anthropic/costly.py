"""Messages fields that cost money or change the model beyond what a route prices: refused, never passed on unpriced."""

from collections.abc import Mapping

import msgspec

from chassis.errors import Code, TollbridgeError
from pricing.prices import Rates
from upstream.extras import HOUR_CACHE, extras

COSTLY_FIELDS = frozenset(
    {
        "billing_policy",
        "compaction",  # another run of the model, beside the usage that is reported
        "container",
        "fallback_credit_token",
        "fallbacks",
        "inference_geo",
        "mcp_servers",
        "user_profile_id",
    }
)
_HARMLESS = {"service_tier": ("auto", "standard_only"), "speed": ("standard",)}


NOT_HELD = "thread_unsupported_request"
"""Anthropic's own word for it: its SDKs' tool runners then go on without a thread, with the whole conversation."""


def refuse_costly(body: Mapping[str, object], *, rates: Rates | None = None, caches: bool = True) -> None:
    """Raises TollbridgeError(INVALID_REQUEST, details `param`) for a field that the route does not price.

    `caches` False where marks for a cache don't reach the provider.
    """
    _refuse_thread(body)
    for name in COSTLY_FIELDS & body.keys():
        if _plain(body[name]) is not None:
            raise _refusal(name)
    for name, harmless in _HARMLESS.items():
        if _plain(body.get(name)) not in (None, *harmless):
            raise _refusal(name)
    context = _plain(body.get("context_management"))
    edits = context.get("edits") if isinstance(context, dict) else None
    for edit in edits if isinstance(edits, list) else []:
        if isinstance(edit, dict) and str(edit.get("type")).startswith("compact"):
            raise _refusal("context_management")
    tools = _plain(body.get("tools"))
    for tool in tools if isinstance(tools, list) else []:
        if isinstance(tool, dict) and tool.get("type") not in (None, "custom"):
            raise _refusal("tools")
    if not caches or (rates is not None and rates.cache_write_1h):
        return
    top = {"cache_control": _plain(body.get("cache_control"))}
    for value in (top, *(body.get(name) for name in ("system", "messages", "tools"))):
        if HOUR_CACHE in extras(value):
            raise _refusal(HOUR_CACHE)


def _refuse_thread(body: Mapping[str, object]) -> None:
    """It would be held at the provider, in the account that all customers share."""
    if _plain(body.get("thread")) is None:
        return
    message = "`thread`: conversations are not held here, send the whole of it in messages"
    raise TollbridgeError(Code.INVALID_REQUEST, message, details={"param": "thread", "error_code": NOT_HELD})


def _refusal(name: str) -> TollbridgeError:
    message = f"`{name}` is not offered here: it costs more than this model's price covers"
    return TollbridgeError(Code.INVALID_REQUEST, message, details={"param": name})


def _plain(value: object) -> object:
    return msgspec.json.decode(value) if isinstance(value, msgspec.Raw) else value
