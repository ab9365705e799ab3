"""Anthropic's shapes: a message, its events in their full order with a ping, and an error."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from tests.fakes.provider.script import Script

_STOPS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
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
    thought = [{"type": "thinking", "thinking": script.thinking, "signature": "sig"}] if script.thinking else []
    tools = [
        {**_tool(call, answer_id, at), "input": json.loads(call["arguments"])} for at, call in enumerate(script.calls)
    ]
    answer["content"] = [*thought, {"type": "text", "text": script.whole_text}, *tools]
    answer["stop_reason"] = _STOPS.get(script.finish_word, script.finish)
    return answer if script.no_usage else answer | {"usage": usage(script, output_tokens=script.output_tokens)}


def events(script: Script, *, answer_id: str, model: str) -> Iterator[dict[str, Any]]:
    """A stream's events; the second of them is a ping."""
    message = _message(answer_id, model)
    if not script.no_usage and not script.no_start_usage:
        honest = replace(script, usage=None)
        message["usage"] = usage(honest, output_tokens=min(1, script.output_tokens))
    yield {"type": "message_start", "message": message}
    at = 0
    if script.thinking:
        yield from _block(at, {"type": "thinking", "thinking": ""}, [{"thinking": script.thinking}])
        at += 1
    yield {"type": "content_block_start", "index": at, "content_block": {"type": "text", "text": ""}}
    yield {"type": "ping"}
    for number in range(script.chunks):
        delta = {"type": "text_delta", "text": script.piece(number)}
        yield {"type": "content_block_delta", "index": at, "delta": delta}
    yield {"type": "content_block_stop", "index": at}
    for number, call in enumerate(script.calls):
        arguments = call["arguments"]
        halves = [{"partial_json": piece} for piece in (arguments[:3], arguments[3:])]
        yield from _block(at + number + 1, {**_tool(call, answer_id, number), "input": {}}, halves)
    stop = {"stop_reason": _STOPS.get(script.finish_word, script.finish), "stop_sequence": None}
    last: dict[str, Any] = {"type": "message_delta", "delta": stop}
    if not script.no_usage:
        last["usage"] = usage(script, output_tokens=script.output_tokens)
    if script.usage_late:
        yield {"type": "message_stop"}
    for _ in range(script.usage_times):
        yield last
    if not script.usage_late:
        yield {"type": "message_stop"}


def _tool(call: dict[str, Any], answer_id: str, at: int) -> dict[str, Any]:
    return {"type": "tool_use", "id": f"toolu_{answer_id}_{at}", "name": call["name"]}


_DELTAS = {"thinking": "thinking_delta", "partial_json": "input_json_delta"}


def _block(index: int, begun: dict[str, Any], pieces: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    yield {"type": "content_block_start", "index": index, "content_block": begun}
    for piece in pieces:
        delta = {"type": _DELTAS[next(iter(piece))], **piece}
        yield {"type": "content_block_delta", "index": index, "delta": delta}
    yield {"type": "content_block_stop", "index": index}


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
