"""Fields of Messages that a route does not price are refused by their names; what costs nothing extra passes."""

import json

import msgspec
import pytest

from chassis.errors import Code, TollbridgeError
from pricing.prices import Rates
from upstream.anthropic.costly import refuse_costly


def check(rates: Rates | None = None, **fields: object) -> None:
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "Hi"}], **fields})
    refuse_costly(msgspec.json.decode(body, type=dict[str, msgspec.Raw]), rates=rates)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"mcp_servers": [{"url": "https://x.test"}]}, "mcp_servers"),
        ({"container": "c"}, "container"),
        ({"fallbacks": [{"model": "dearer"}]}, "fallbacks"),
        ({"compaction": {"type": "summarize"}}, "compaction"),
        ({"context_management": {"edits": [{"type": "compact_20260112"}]}}, "context_management"),
        ({"thread": {"id": "t"}}, "thread"),
        ({"service_tier": "priority"}, "service_tier"),
        ({"speed": "fast"}, "speed"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools"),
        ({"cache_control": {"type": "ephemeral", "ttl": "1h"}}, "cache_control.ttl"),
        ({"system": [{"type": "text", "text": "x", "cache_control": {"ttl": "1h"}}]}, "cache_control.ttl"),
    ],
)
def test_what_costs_extra_is_refused(fields: dict[str, object], param: str) -> None:
    """Before any money is held."""
    with pytest.raises(TollbridgeError) as refused:
        check(**fields)
    assert (refused.value.code, refused.value.details["param"]) == (Code.INVALID_REQUEST, param)


@pytest.mark.parametrize(
    "fields",
    [
        {"mcp_servers": None, "service_tier": "auto", "speed": "standard"},
        {"tools": [{"name": "f", "input_schema": {}}, {"type": "custom", "name": "g", "input_schema": {}}]},
        {"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}},
        {"context_management": 7, "tools": "x"},
        {"system": [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral", "ttl": "5m"}}]},
    ],
)
def test_what_costs_nothing_extra_passes(fields: dict[str, object]) -> None:
    """Its types are looked at elsewhere."""
    check(**fields)


def test_a_priced_hour_of_cache_passes() -> None:
    """The route has a price for its writes."""
    check(Rates(cache_write_1h=1), cache_control={"type": "ephemeral", "ttl": "1h"})
