"""Request fields that cost money or change the model beyond what a route prices: refused, never passed on unpriced.

The list is kept by hand from the providers' documents. A field that is unknown here travels on; what it costs then is
still bounded by the usage that the provider reports.
"""

from collections.abc import Mapping

import msgspec

from chassis.errors import Code, TollbridgeError
from pricing.prices import Rates
from upstream.extras import HOUR_CACHE, SOUND, extras

COSTLY_FIELDS = frozenset(
    {
        "best_of",  # generates more than is shown
        "deferred",  # another product: fetched later
        "enable_search",
        "fallbacks",  # other models
        "models",
        "plugins",
        "prediction",  # rejected predictions are billed beyond max_tokens
        "preset",
        "provider",  # the choice of provider is router's
        "route",
        "search_parameters",
        "web_search",
        "web_search_options",
    }
)
_HARMLESS = {"service_tier": ("auto", "default", "standard")}
"""Fields that cost money only with some values; these are the values that don't."""
_OWN_TOOLS = ("function", "custom")


def refuse_costly(body: Mapping[str, object], *, rates: Rates | None = None) -> None:
    """Raises TollbridgeError(INVALID_REQUEST, details `param`) for a field that the route does not price.

    `rates` is what the model prices; without it only what plain tokens pay for is let through.
    """
    rates = rates or Rates()
    for name in COSTLY_FIELDS & body.keys():
        if _plain(body[name]) not in (None, False):
            raise _refusal(name)
    for name, harmless in _HARMLESS.items():
        if name in body and _plain(body[name]) not in (None, *harmless):
            raise _refusal(name)
    _refuse_modalities(body, rates)
    _refuse_tools(body)
    priced = {HOUR_CACHE: rates.cache_write_1h, SOUND: rates.audio_input}
    for unpriced in sorted(name for name in _extras(body) if not priced[name]):
        raise _refusal(unpriced)


def _refuse_modalities(body: Mapping[str, object], rates: Rates) -> None:
    priced = ["text", "audio"] if rates.audio_output else ["text"]
    modalities = _plain(body.get("modalities"))
    if modalities is not None and not (isinstance(modalities, list) and all(kind in priced for kind in modalities)):
        raise _refusal("modalities")
    if not rates.audio_output and _plain(body.get("audio")) is not None:
        raise _refusal("audio")


def _refuse_tools(body: Mapping[str, object]) -> None:
    """Tools that the client runs are free; tools that the provider runs are not."""
    tools = _plain(body.get("tools"))
    for tool in tools if isinstance(tools, list) else []:
        if isinstance(tool, dict) and tool.get("type", "function") not in _OWN_TOOLS:
            raise _refusal("tools")


def _refusal(name: str) -> TollbridgeError:
    message = f"`{name}` is not offered here: it costs more than this model's price covers"
    return TollbridgeError(Code.INVALID_REQUEST, message, details={"param": name})


def _plain(value: object) -> object:
    return msgspec.json.decode(value) if isinstance(value, msgspec.Raw) else value


def _extras(body: Mapping[str, object]) -> set[str]:
    deep = {name: body[name] for name in ("messages", "tools") if name in body}
    top = {"cache_control": _plain(body.get("cache_control"))}
    return set().union(extras(top), *map(extras, deep.values()))
