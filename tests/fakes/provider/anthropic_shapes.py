"""Anthropic's shapes: a message, its events in their full order with a ping, and an error."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from tests.fakes.provider.script import Script

_STOPS = {"stop": "end_turn", "length": "max_tokens"}
_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}


def usage(script: Script, *, output_tokens: int) -> dict[str, Any]:
    """Cache reads and writes stand beside the input."""
    block = {
        "input_tokens": script.input_tokens,
        "cache_creation_input_tokens": script.cache_write_tokens,
        "cache_read_input_tokens": script.cached_tokens,
        "cache_creation": {
            "ephemeral_5m_input_tokens": script.cache_write_tokens,
            "ephemeral_1h_input_tokens": 0,
        },
        "output_tokens": output_tokens,
        "service_tier": "standard",
    }
    given = script.usage or {}
    return {name: value for name, value in (block | given).items() if value is not None or name not in given}


def whole(script: Script, *, answer_id: str, model: str) -> dict[str, Any]:
    """A message."""
    answer: dict[str, Any] = _message(answer_id, model)
    answer["content"] = [{"type": "text", "text": script.whole_text}]
    answer["stop_reason"] = _STOPS.get(script.finish, script.finish)
    return answer if script.no_usage else answer | {"usage": usage(script, output_tokens=script.output_tokens)}


def events(script: Script, *, answer_id: str, model: str) -> Iterator[dict[str, Any]]:
    """A stream's events; the second of them is a ping."""
    message = _message(answer_id, model)
    if not script.no_usage and not script.no_start_usage:
        honest = replace(script, usage=None)
        message["usage"] = usage(honest, output_tokens=min(1, script.output_tokens))
    yield {"type": "message_start", "message": message}
    yield {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    yield {"type": "ping"}
    for number in range(script.chunks):
        delta = {"type": "text_delta", "text": script.piece(number)}
        yield {"type": "content_block_delta", "index": 0, "delta": delta}
    yield {"type": "content_block_stop", "index": 0}
    stop = {"stop_reason": _STOPS.get(script.finish, script.finish), "stop_sequence": None}
    last: dict[str, Any] = {"type": "message_delta", "delta": stop}
    if not script.no_usage:
        last["usage"] = usage(script, output_tokens=script.output_tokens)
    if script.usage_late:
        yield {"type": "message_stop"}
    for _ in range(script.usage_times):
        yield last
    if not script.usage_late:
        yield {"type": "message_stop"}


def error(status: int, message: str) -> dict[str, Any]:
    """An error body, which is the error event's data too."""
    return {"type": "error", "error": {"type": _KINDS.get(status, "api_error"), "message": message}}


def _message(answer_id: str, model: str) -> dict[str, Any]:
    return {
        "id": answer_id,
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
    }
