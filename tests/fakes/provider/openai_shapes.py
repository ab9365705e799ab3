"""OpenAI's shapes: a chat's chunks and its whole answer, an image answer, the models list and an error."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from tests.fakes.provider.script import Script

CREATED = 1_700_000_000
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


def usage(script: Script) -> dict[str, Any]:
    """Cached tokens are inside the prompt's, reasoning inside the completion's."""
    block: dict[str, Any] = {
        "prompt_tokens": script.input_tokens,
        "completion_tokens": script.output_tokens,
        "total_tokens": script.input_tokens + script.output_tokens,
        "prompt_tokens_details": {"cached_tokens": script.cached_tokens, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": script.reasoning_tokens, "audio_tokens": 0},
    }
    if script.cost is not None:
        block["cost"] = script.cost
    given = script.usage or {}
    return {name: value for name, value in (block | given).items() if value is not None or name not in given}


def logprobs(text: str, *, top: int) -> dict[str, Any]:
    """Each word is a token; its alternatives are itself."""

    def token(word: str) -> dict[str, Any]:
        return {"token": word, "logprob": -0.25, "bytes": list(word.encode())}

    content = [{**token(word), "top_logprobs": [token(word)] * top} for word in text.split()]
    return {"content": content, "refusal": None}


def whole(script: Script, *, answer_id: str, model: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """A `chat.completion`."""
    message: dict[str, Any] = {"role": "assistant", "content": script.whole_text, "refusal": None}
    if script.thinking:
        message["reasoning_content"] = script.thinking
    if script.calls:
        message["tool_calls"] = [_call(call, answer_id, at) for at, call in enumerate(script.calls)]
    likely = logprobs(script.whole_text, top=body.get("top_logprobs") or 0) if body.get("logprobs") else None
    answer: dict[str, Any] = {
        "id": answer_id,
        "object": "chat.completion",
        "created": CREATED,
        "model": model,
        "choices": [
            {"index": index, "message": message, "logprobs": likely, "finish_reason": script.finish_word}
            for index in range(int(body.get("n") or 1))
        ],
        "system_fingerprint": "fp_fake",
    }
    return answer if script.no_usage else answer | {"usage": usage(script)}


def chunks(script: Script, *, answer_id: str, model: str, body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A stream's chunks: role, pieces, finish and, if asked for, usage; as api.openai.com sends them.

    Of several choices only the first one calls tools.
    """
    with_usage = bool((body.get("stream_options") or {}).get("include_usage"))
    choices = range(int(body.get("n") or 1))
    head: dict[str, Any] = {
        "id": answer_id,
        "object": "chat.completion.chunk",
        "created": CREATED,
        "model": model,
        "system_fingerprint": "fp_fake",
    }
    none_yet = {"usage": None} if with_usage and not script.no_usage else {}

    def choice(delta: dict[str, Any], finish: str | None, index: int = 0) -> dict[str, Any]:
        likely = body.get("logprobs") and delta.get("content")
        told = logprobs(delta["content"], top=body.get("top_logprobs") or 0) if likely else None
        one = {"index": index, "delta": delta, "logprobs": told, "finish_reason": finish}
        return {**head, "choices": [one], **none_yet}

    for index in choices:
        yield choice({"role": "assistant", "content": "", "refusal": None}, None, index)
    if script.thinking:
        yield choice({"reasoning_content": script.thinking}, None)
    for number in range(script.chunks):
        so_far = replace(script, output_tokens=script.output_tokens * (number + 1) // script.chunks)
        running = {"usage": usage(so_far)} if none_yet and script.usage_running else {}
        for index in choices:
            yield choice({"content": script.piece(number)}, None, index) | running
    for at, call in enumerate(script.calls):
        whole_call, arguments = _call(call, answer_id, at), str(call["arguments"])
        yield choice({"tool_calls": [{**whole_call, "function": {"name": call["name"], "arguments": ""}}]}, None)
        for piece in (arguments[: len(arguments) // 2], arguments[len(arguments) // 2 :]):
            yield choice({"tool_calls": [{"index": at, "function": {"arguments": piece}}]}, None)
    for index in choices:
        yield choice({}, script.finish_word, index)
    if none_yet:
        for _ in range(script.usage_times):
            yield {**head, "choices": [], "usage": usage(script)}


def _call(call: dict[str, Any], answer_id: str, at: int) -> dict[str, Any]:
    return {"index": at, "id": f"call_{answer_id}_{at}", "type": "function", "function": call}


def completion(script: Script, *, answer_id: str, model: str, choices: int) -> dict[str, Any]:
    """A legacy `text_completion`."""
    one = {"text": script.whole_text, "logprobs": None, "finish_reason": script.finish}
    answer = {
        "id": answer_id,
        "object": "text_completion",
        "created": CREATED,
        "model": model,
        "choices": [{"index": index, **one} for index in range(choices)],
    }
    return answer if script.no_usage else answer | {"usage": usage(script)}


def completion_chunks(chunks_of_chat: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The same stream as a legacy completion's."""
    for chunk in chunks_of_chat:
        for choice in chunk["choices"]:
            choice["text"] = choice.pop("delta").get("content", "")
        yield {**chunk, "object": "text_completion"}


def images(*, count: int) -> dict[str, Any]:
    """An image answer with one pixel each."""
    return {"created": CREATED, "data": [{"b64_json": PIXEL} for _ in range(count)]}


def models(names: tuple[str, ...]) -> dict[str, Any]:
    """The models list."""
    rows = [{"id": name, "object": "model", "created": CREATED, "owned_by": "fake"} for name in names]
    return {"object": "list", "data": rows}


def error(status: int, message: str) -> dict[str, Any]:
    """An error body."""
    kind = {401: "authentication_error", 429: "rate_limit_error"}.get(status)
    kind = kind or ("server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}
