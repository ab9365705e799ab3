"""A Messages request over a chat provider means the same there, or is refused by the field that can't be said."""

import json
from typing import Any

import msgspec
import pytest

from chassis.errors import Code, TollbridgeError
from services.edge.translate.messages_to_chat import chat_request

PNG = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
PNG_PART = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
LINK = {"type": "image", "source": {"type": "url", "url": "https://x.test/a.png"}}
TOOL = {"name": "f", "description": "d", "input_schema": {"type": "object"}}


def translated(*messages: tuple[str, Any], **fields: object) -> dict[str, Any]:
    said = [{"role": role, "content": content} for role, content in messages or (("user", "Hi"),)]
    body = msgspec.json.encode({"model": "m", "max_tokens": 64, "messages": said, **fields})
    return chat_request(msgspec.json.decode(body, type=dict[str, msgspec.Raw]))


def text(words: str, **more: object) -> dict[str, object]:
    return {"type": "text", "text": words, **more}


def result(call_id: str, content: object, **more: object) -> dict[str, object]:
    return {"type": "tool_result", "tool_use_id": call_id, "content": content, **more}


def test_conversation_keeps_its_meaning() -> None:
    """System, images, thoughts, calls and results each get their place; results follow their calls at once."""
    use = {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": [1, "ü"]}}
    made = translated(
        ("user", [text("Look"), {"type": "image", "source": PNG}, LINK]),
        (
            "assistant",
            [{"type": "thinking", "thinking": "hm", "signature": ""}, text("Well"), use, {**use, "id": "t2"}],
        ),
        ("user", [text("And?"), result("t1", "one"), result("t2", [text("two"), {"type": "image", "source": PNG}])]),
        system=[text("Be brief.", cache_control={"type": "ephemeral"}), text("And kind.")],
    )
    system, user, assistant, one, two, more = made["messages"]
    assert system == {"role": "system", "content": "Be brief.\n\nAnd kind."}
    assert user["content"] == [
        text("Look"),
        PNG_PART,
        {"type": "image_url", "image_url": {"url": LINK["source"]["url"]}},
    ]
    assert (assistant["content"], assistant["reasoning_content"]) == ("Well", "hm")
    assert [call["id"] for call in assistant["tool_calls"]] == ["t1", "t2"]
    assert json.loads(assistant["tool_calls"][0]["function"]["arguments"]) == {"a": [1, "ü"]}
    assert one == {"role": "tool", "tool_call_id": "t1", "content": "one"}
    assert (two["tool_call_id"], two["content"].startswith("two\n\n")) == ("t2", True)
    assert more == {"role": "user", "content": [text("And?"), PNG_PART]}


def test_documents_are_read() -> None:
    """Plain text under its title, a PDF as a file, content as what it holds, search results with their source."""
    pdf = {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}
    found = {"type": "search_result", "source": "https://x.test", "title": "X", "content": [text("found")]}
    (said,) = translated(
        (
            "user",
            [
                {
                    "type": "document",
                    "title": "T",
                    "source": {"type": "text", "media_type": "text/plain", "data": "words"},
                },
                {"type": "document", "title": "a.pdf", "source": pdf},
                {"type": "document", "source": {"type": "content", "content": [text("inside"), LINK]}},
                found,
            ],
        )
    )["messages"]
    file = {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERi0="}
    assert said["content"] == [
        text("T\n\nwords"),
        text("a.pdf"),
        {"type": "file", "file": file},
        text("inside"),
        {"type": "image_url", "image_url": {"url": "https://x.test/a.png"}},
        text("X\nhttps://x.test\n\nfound"),
    ]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"type": "auto"}, {"tool_choice": "auto"}),
        ({"type": "any"}, {"tool_choice": "required"}),
        ({"type": "none"}, {"tool_choice": "none"}),
        ({"type": "tool", "name": "f"}, {"tool_choice": {"type": "function", "function": {"name": "f"}}}),
        (
            {"type": "auto", "disable_parallel_tool_use": True},
            {"tool_choice": "auto", "parallel_tool_calls": False},
        ),
    ],
)
def test_tool_choices(choice: object, expected: dict[str, object]) -> None:
    """Each way to choose a tool has its counterpart."""
    made = translated(tools=[TOOL], tool_choice=choice)
    function = {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {}}}
    assert made.pop("tools") == [{"type": "function", "function": function}]
    assert {name: made[name] for name in made if name != "messages"} == expected


def test_sampling_thinking_and_format() -> None:
    """Stop sequences, the user, the effort and the schema of the answer."""
    schema = {"type": "object", "additionalProperties": False}
    made = translated(
        temperature=0.5,
        top_p=0.9,
        top_k=5,
        stop_sequences=["a", "b"],
        metadata={"user_id": "u"},
        thinking={"type": "enabled", "budget_tokens": 4000},
        output_config={"format": {"type": "json_schema", "schema": schema}},
        service_tier="auto",
    )
    assert made["response_format"]["json_schema"] == {"name": "answer", "schema": schema, "strict": True}
    assert {name: made[name] for name in ("temperature", "top_p", "top_k", "stop", "user", "reasoning_effort")} == {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 5,
        "stop": ["a", "b"],
        "user": "u",
        "reasoning_effort": "medium",
    }
    assert translated(output_config={"effort": "max"})["reasoning_effort"] == "high"
    assert translated(thinking={"type": "disabled"}).keys() == {"messages"}


def test_an_error_of_a_tool_stays_an_error() -> None:
    """Chat has no mark for it, so the text says so; what another provider has signed is not shown."""
    sealed = {"type": "thinking", "thinking": "hm", "signature": "sealed"}
    use = {"type": "tool_use", "id": "t1", "name": "f", "input": {}}
    made = translated(("user", "Hi"), ("assistant", [sealed, use]), ("user", [result("t1", "no", is_error=True)]))
    assert made["messages"][1] == {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "t1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
    }
    assert made["messages"][2] == {"role": "tool", "tool_call_id": "t1", "content": "Error: no"}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"novel": 1}, "novel"),
        ({"n": 2}, "n"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"output_config": {"novel": 1}}, "output_config.novel"),
        ({"output_config": {"effort": "huge"}}, "output_config.effort"),
        ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format"),
        ({"output_config": {"format": 7}}, "output_config.format"),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools[0].type"),
        ({"system": [LINK]}, "system[0].type"),
    ],
)
def test_fields_that_chat_does_not_have_are_refused_by_name(fields: dict[str, object], param: str) -> None:
    """Nothing that would change the answer is dropped silently."""
    with pytest.raises(TollbridgeError) as refused:
        translated(**fields)
    assert refused.value.code is Code.INVALID_REQUEST
    assert refused.value.details["param"] == param
    assert param in refused.value.message


@pytest.mark.parametrize(
    ("role", "block", "param"),
    [
        ("user", {"type": "novel"}, "messages[0].content[0].type"),
        ("user", {"type": "document", "source": {"type": "url", "url": "x"}}, "messages[0].content[0].source.type"),
        (
            "user",
            {"type": "document", "source": {"type": "text", "data": "x"}, "citations": {"enabled": True}},
            "messages[0].content[0].citations",
        ),
        ("user", {"type": "image", "source": {"type": "novel"}}, "messages[0].content[0].source.type"),
        ("user", result("t", [{"type": "novel"}]), "messages[0].content[0].content[0].type"),
        ("assistant", {"type": "server_tool_use", "id": "s", "name": "w", "input": {}}, "messages[0].content[0].type"),
        ("assistant", text("Once upon"), "messages"),
    ],
)
def test_blocks_that_chat_cannot_carry_are_refused_by_name(role: str, block: object, param: str) -> None:
    """A begun answer, citations, the provider's own tools, and types that nobody knows."""
    with pytest.raises(TollbridgeError) as refused:
        translated((role, [block]))
    assert refused.value.details["param"] == param
