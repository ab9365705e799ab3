"""What costs extra deep inside a request: an hour's cache and sound. Decided on the parsed JSON, whatever its spelling.

Parsing a large conversation takes time, so bytes that can't hold either are not parsed. That look can't be fooled: a
letter of JSON can only be hidden by an escape such as `\\u0074`, and any such escape leads to parsing too.
"""

from collections.abc import Iterator

import msgspec

HOUR_CACHE = "cache_control.ttl"
SOUND = "input_audio"
_MARKS = (b'"ttl"', b"input_audio", b"\\u00")
_PLAIN_TTL = (None, "5m")


def extras(value: object) -> set[str]:
    """Which of HOUR_CACHE and SOUND a field asks for. `value` is plain, or a `msgspec.Raw` of valid JSON."""
    if isinstance(value, msgspec.Raw):
        raw = bytes(value)
        if not any(mark in raw for mark in _MARKS):
            return set()
        value = msgspec.json.decode(raw)
    found: set[str] = set()
    for each in _objects(value):
        cache = each.get("cache_control")
        if isinstance(cache, dict) and cache.get("ttl") not in _PLAIN_TTL:
            found.add(HOUR_CACHE)
        if each.get("type") == SOUND or each.get(SOUND) is not None:
            found.add(SOUND)
    return found


def _objects(value: object) -> Iterator[dict[str, object]]:
    """Every JSON object in it, itself included."""
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            yield each
            waiting += each.values()
        elif isinstance(each, list):
            waiting += each
