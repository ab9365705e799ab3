"""The body of a Messages request: wrong fields are refused by their names, whatever they are; pieces are found."""

import copy
import json
from typing import Any

import pytest

from chassis.errors import Code, TollbridgeError
from services.edge.bodies.messages_request import handed_on, parse_count, parse_messages
from services.edge.paid.prompt import count_prompt
from services.edge.translate.messages_to_chat import chat_request
from services.edge.translate.signed_thoughts import with_signed_thoughts
from upstream.anthropic.costly import refuse_costly
from upstream.route import Bounds

PNG = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}}
PDF = {"type": "document", "title": "T", "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBE"}}
TEXT = {"type": "text", "text": "Hi"}
RICH: dict[str, Any] = {
    "model": "m",
    "max_tokens": 4096,
    "system": [{**TEXT, "cache_control": {"type": "ephemeral"}}],
    "temperature": 0.5,
    "stop_sequences": ["END"],
    "metadata": {"user_id": "u"},
    "thinking": {"type": "enabled", "budget_tokens": 1024},
    "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": {"type": "object"}}},
    "tools": [{"name": "f", "description": "d", "input_schema": {"type": "object"}, "input_examples": [{}]}],
    "tool_choice": {"type": "tool", "name": "f", "disable_parallel_tool_use": True},
    "messages": [
        {"role": "user", "content": [TEXT, PNG, PDF]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": ""},
                {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t", "content": [TEXT, PNG], "is_error": False},
                {"type": "document", "context": "c", "source": {"type": "content", "content": [TEXT, PNG]}},
                {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "x"}},
                {"type": "search_result", "source": "s", "title": "t", "content": [TEXT]},
            ],
        },
        {"role": "user", "content": "Go on"},
    ],
}
ODD = [None, True, 0, -1, 1.5, 1 << 70, "", "x", [], {}, [[]], [{}], {"type": "text"}, {"type": 7}, [None]]


def paths_of(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where every value in a body is."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(path for key, each in inside for path in paths_of(each, (*at, key)))]


def changed(path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    """The rich body with one value replaced."""
    body = copy.deepcopy(RICH)
    at: Any = body
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return body


def refusal(body: bytes) -> TollbridgeError | None:
    """What becomes of a body on its way to a provider, by either protocol."""
    try:
        request = parse_messages(body)
        refuse_costly(request.fields)
        with_signed_thoughts(request.fields)
        count_prompt(body, "gpt-4o")
        chat_request(request.fields)
    except TollbridgeError as error:
        return error
    return None


@pytest.mark.parametrize("value", ODD, ids=str)
def test_nothing_in_a_body_makes_anything_but_a_refusal(value: Any) -> None:
    """Parsing, prices, translation and counting refuse with a field's name, or take it; they never break."""
    assert refusal(json.dumps(RICH).encode()) is None
    for path in paths_of(RICH)[1:]:
        error = refusal(json.dumps(changed(path, value)).encode())
        assert error is None or error.code is Code.INVALID_REQUEST
        assert error is None or error.details["param"] in error.message, path


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": None}, "model"),
        ({"model": ""}, "model"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"temperature": 1.01}, "temperature"),
        ({"top_p": 2}, "top_p"),
        ({"system": 7}, "system"),
        ({"messages": [{"role": "system", "content": "x"}, {"role": "user", "content": "x"}]}, "messages[0].role"),
        ({"tools": [{"name": "f"}]}, "tools[0].input_schema"),
        ({"tools": [{}]}, "tools[0].name"),
        ({"tools": [{"name": "", "input_schema": {}}]}, "tools[0].name"),
        ({"tools": [{"type": ""}]}, "tools[0].type"),
        ({"tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
        ({"stop_sequences": "x"}, "stop_sequences"),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, Any], param: str) -> None:
    """By where it stands."""
    body = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "x"}], **fields}
    with pytest.raises(TollbridgeError) as refused:
        parse_messages(json.dumps(body).encode())
    assert refused.value.details["param"] == param
    assert param in refused.value.message


def test_instructions_may_come_later_in_a_conversation() -> None:
    """As Anthropic's API has it: only before all messages they stand elsewhere."""
    said = [{"role": "user", "content": "x"}, {"role": "system", "content": [{"type": "text", "text": "Be brief."}]}]
    parse_messages(json.dumps({"model": "m", "max_tokens": 5, "messages": said}).encode())


@pytest.mark.parametrize(
    ("block", "param"),
    [
        ({"text": "x"}, "type"),
        ({"type": "text"}, "text"),
        ({"type": "image"}, "source"),
        ({"type": "image", "source": {"type": "base64", "data": "x"}}, "source.media_type"),
        ({"type": "image", "source": {"type": "file", "file_id": "f"}}, "source.type"),
        ({"type": "document", "source": {"type": "url"}}, "source.url"),
        ({"type": "tool_use", "id": "t", "name": "f", "input": []}, "input"),
        ({"type": "tool_result", "content": "x"}, "tool_use_id"),
        ({"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": 7}]}, "content[0].text"),
        ({"type": "tool_result", "tool_use_id": "t", "content": [{"type": "image"}]}, "content[0].source"),
    ],
)
def test_a_wrong_block_is_named(block: dict[str, Any], param: str) -> None:
    """However deep it stands."""
    body = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": [block]}]}
    with pytest.raises(TollbridgeError) as refused:
        parse_messages(json.dumps(body).encode())
    assert refused.value.details["param"] == f"messages[0].content[0].{param}"


def test_images_and_files_are_pieces_wherever_they_stand() -> None:
    """A picture's bytes are no text; a document grows with its bytes; a document's plain text is text."""
    request = parse_messages(json.dumps(RICH).encode())
    assert [piece.grows for piece in request.pieces] == [False, True, False, False]
    assert request.thinking_budget == 1024
    bounds = Bounds(max_part_tokens=1500)
    body = len(request.body) - sum(piece.inline_bytes for piece in request.pieces)
    assert request.input_tokens(bounds) == body + 4 * 1500


def test_only_harmless_betas_travel_on() -> None:
    """Neither what costs more nor what is unknown, nor anything that is no name."""
    value = b"claude-code-20250219,context-1m-2025-08-07, effort-2025-11-24\t,pdfs-2024-09-25\xe9,novel-2030-01-01"
    assert handed_on([(b"anthropic-beta", value), (b"x-other", b"pdfs-2024-09-25")]) == (
        ("anthropic-beta", "claude-code-20250219,effort-2025-11-24"),
    )
    assert handed_on([(b"anthropic-beta", b"context-1m-2025-08-07")]) == ()


def test_a_count_needs_no_limit() -> None:
    """And generates nothing."""
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
    assert parse_count(json.dumps(body).encode()).choices == 0
