"""What of a response request a chat can carry, and what is refused by its name."""

import json
import time

import msgspec
import pytest

from chassis.errors import Code, TollbridgeError
from services.edge.bodies.responses_request import parse_responses
from upstream.route import Bounds

LOOK = {"type": "function", "name": "look", "parameters": {"type": "object"}}
CALL = {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"}
PICTURE = {"type": "input_image", "image_url": "data:image/png;base64,AAAA"}


def chat_of(**body) -> dict:
    """The chat that is sent for such a body."""
    request = parse_responses(json.dumps({"model": "m", "input": "Hi", **body}).encode())
    made: dict = msgspec.json.decode(msgspec.json.encode(request.fields))
    return made


def messages_of(*items: dict) -> list[dict]:
    """The messages for such items."""
    made: list[dict] = chat_of(input=list(items))["messages"]
    return made


REFUSED = {
    "previous_response_id": {"previous_response_id": "resp_1"},
    "conversation": {"conversation": {"id": "conv_1"}},
    "background": {"background": True},
    "prompt": {"prompt": {"id": "pmpt_1"}},
    "input": {"input": []},
    "input[0].type": {"input": [{"type": "item_reference", "id": "msg_1"}]},
    "input[1].type": {"input": [{"role": "user", "content": "Hi"}, {"type": "web_search_call", "id": "ws_1"}]},
    "input[0].content": {"input": [{"role": "user"}]},
    "input[0].content[0].type": {"input": [{"role": "user", "content": [{"type": "image"}]}]},
    "input[0].content[0].text": {"input": [{"role": "user", "content": [{"type": "input_text"}]}]},
    "input[0].content[0].file_id": {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
    "input[0].content[0].image_url": {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
    "input[0].call_id": {"input": [{"type": "function_call_output", "call_id": "nobody", "output": ""}]},
    "input[0].name": {"input": [{**CALL, "name": None}]},
    "tools[1].type": {"tools": [LOOK, {"type": "file_search"}]},
    "tools[2].type": {"tools": [{"type": "web_search"}, LOOK, {"type": "mcp"}]},
    "tools[0].tools[0].type": {"tools": [{"type": "namespace", "name": "n", "tools": [{"type": "web_search"}]}]},
    "tools[0].tools[1].type": {"tools": [{"type": "namespace", "name": "n", "tools": [LOOK, {"type": "mcp"}]}]},
    "tools[0].name": {"tools": [{"type": "function"}]},
    "tool_choice": {"tool_choice": "required"},
    "tool_choice.type": {"tools": [LOOK], "tool_choice": {"type": "file_search"}},
    "text.format.schema": {"text": {"format": {"type": "json_schema", "name": "n"}}},
    "text.format.type": {"text": {"format": {"type": "xml"}}},
    "temperature": {"temperature": 2.5},
    "top_p": {"top_p": -1},
    "max_output_tokens": {"max_output_tokens": 0},
    "stream": {"stream": "yes"},
    "instructions": {"instructions": ["no"]},
    "metadata": {"metadata": {str(number): "" for number in range(17)}},
    "truncation": {"truncation": "middle"},
    "model": {"model": ""},
}


@pytest.mark.parametrize("param", REFUSED)
def test_what_can_not_be_done_is_refused_by_its_name(param: str):
    """A wrong type, a value out of range, a memory that we don't have, a tool that the provider would run."""
    with pytest.raises(TollbridgeError) as refusal:
        chat_of(**REFUSED[param])
    assert refusal.value.code is Code.INVALID_REQUEST
    assert refusal.value.details["param"] == param


def test_a_refused_tool_is_named():
    """Its sender has to know which of the tools to leave out."""
    with pytest.raises(TollbridgeError, match="'file_search'"):
        chat_of(tools=[{"type": "file_search", "vector_store_ids": ["v"]}])


SEARCHES = ["web_search", "web_search_preview", "image_generation"]


@pytest.mark.parametrize("kind", SEARCHES)
def test_a_tool_that_agents_offer_unasked_is_left_out(kind: str):
    """Codex offers a search by default: the model answers without it, as where nothing is found."""
    made = chat_of(tools=[{"type": kind, "external_web_access": True}, LOOK], tool_choice="auto")
    assert made["tools"] == chat_of(tools=[LOOK])["tools"]
    assert "tools" not in chat_of(tools=[{"type": kind}], tool_choice="auto")


@pytest.mark.parametrize("choice", ["required", {"type": "web_search"}])
def test_a_tool_that_is_left_out_can_not_be_asked_for(choice: object):
    """Who insists on it is told that there is none."""
    with pytest.raises(TollbridgeError) as refusal:
        chat_of(tools=[{"type": "web_search"}], tool_choice=choice)
    assert str(refusal.value.details["param"]).startswith("tool_choice")


@pytest.mark.parametrize("name", ["previous_response_id", "conversation", "prompt", "background", "tools", "text"])
def test_a_field_that_is_null_is_not_there(name: str):
    """SDKs send nulls for what their users left out."""
    assert chat_of(**{name: None}) == {"messages": [{"role": "user", "content": "Hi"}]}


def test_fields_that_a_chat_has_are_named_as_a_chat_names_them():
    """Sampling, reasoning, the form of the text, logprobs; what only we act upon stays here."""
    made = chat_of(
        temperature=0.5,
        top_p=0.9,
        reasoning={"effort": "low", "summary": "auto"},
        text={"verbosity": "low", "format": {"type": "json_schema", "name": "n", "schema": {}, "strict": True}},
        include=["reasoning.encrypted_content", "message.output_text.logprobs"],
        top_logprobs=2,
        prompt_cache_key="k",
        safety_identifier="s",
        user="u",
        metadata={"a": "b"},
        store=True,
        truncation="auto",
        stream_options={"include_obfuscation": False},
        client_metadata={"something": "new"},
        max_output_tokens=9,
    )
    del made["messages"]
    assert made == {
        "temperature": 0.5,
        "top_p": 0.9,
        "reasoning_effort": "low",
        "verbosity": "low",
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {}, "strict": True}},
        "logprobs": True,
        "top_logprobs": 2,
        "prompt_cache_key": "k",
        "safety_identifier": "s",
        "user": "u",
    }


def test_instructions_of_all_kinds_are_one_system_message():
    """Only OpenAI knows developers, and many templates only one system message."""
    made = chat_of(
        instructions="Be brief.",
        input=[{"role": "developer", "content": "Use metres."}, {"role": "user", "content": "How far?"}],
    )
    assert made["messages"] == [
        {"role": "system", "content": "Be brief.\n\nUse metres."},
        {"role": "user", "content": "How far?"},
    ]


def test_parts_are_named_as_a_chat_names_them():
    """Text, pictures, files and sounds; a file may be a link."""
    parts = [
        {"type": "input_text", "text": "Look"},
        {**PICTURE, "detail": "high"},
        {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,AA"},
        {"type": "input_file", "file_url": "https://example.com/b.pdf"},
        {"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}},
    ]
    (message,) = messages_of({"type": "message", "role": "user", "content": parts})
    assert message["content"] == [
        {"type": "text", "text": "Look"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "high"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AA"}},
        {"type": "file", "file": {"file_data": "https://example.com/b.pdf"}},
        {"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}},
    ]


def test_pictures_are_priced_by_the_piece():
    """Wherever they stand: in a message or in a tool's output."""
    items = [
        {"role": "user", "content": [PICTURE]},
        CALL,
        {"type": "function_call_output", "call_id": "c1", "output": [PICTURE]},
    ]
    body = json.dumps({"model": "m", "input": items}).encode()
    request = parse_responses(body)
    inline = len(PICTURE["image_url"])
    assert request.input_tokens(Bounds(max_part_tokens=1000)) == len(body) - 2 * inline + 2000


def test_what_the_model_said_and_called_in_a_row_is_one_message():
    """Its calls' outputs follow at once, whatever stood between them; reasoning goes back with it."""
    made = messages_of(
        {"role": "user", "content": "Go"},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]},
        CALL,
        {**CALL, "call_id": "c2"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Looking."}]},
        {"type": "function_call_output", "call_id": "c2", "output": "two"},
        {"role": "user", "content": "And?"},
        {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "one"}]},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Ah."}], "encrypted_content": "gAAA"},
        {"role": "assistant", "content": "Done."},
    )
    function = {"name": "look", "arguments": "{}"}
    assert made == [
        {"role": "user", "content": "Go"},
        {
            "role": "assistant",
            "content": "Looking.",
            "reasoning_content": "Hm.",
            "tool_calls": [{"id": call_id, "type": "function", "function": function} for call_id in ("c1", "c2")],
        },
        {"role": "tool", "tool_call_id": "c2", "content": "two"},
        {"role": "tool", "tool_call_id": "c1", "content": "one"},
        {"role": "user", "content": "And?"},
        {"role": "assistant", "content": "Done.", "reasoning_content": "Ah."},
    ]


def test_reasoning_that_is_only_referred_to_is_passed_over():
    """Some SDKs refer to it whatever the answer said of storing; the conversation goes on without it."""
    made = messages_of({"role": "user", "content": "Go"}, {"type": "item_reference", "id": "rs_1"}, {"id": "rs_2"})
    assert made == [{"role": "user", "content": "Go"}]


def test_a_picture_from_a_tool_is_shown_by_the_user():
    """A tool's message is text in a chat."""
    made = messages_of(CALL, {"type": "function_call_output", "call_id": "c1", "output": [PICTURE]})
    assert made[1:] == [
        {"role": "tool", "tool_call_id": "c1", "content": "The output follows."},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": PICTURE["image_url"]}}]},
    ]


def test_custom_tools_are_told_as_a_chat_tells_them():
    """The tool with its grammar, the choice of it, a call of it and its output."""
    grammar = {"type": "grammar", "syntax": "lark", "definition": "start: /a/"}
    made = chat_of(
        tools=[{"type": "custom", "name": "patch", "description": "d", "format": grammar}],
        tool_choice={"type": "custom", "name": "patch"},
        input=[
            {"type": "custom_tool_call", "call_id": "c1", "name": "patch", "input": "a"},
            {"type": "custom_tool_call_output", "call_id": "c1", "output": "ok"},
        ],
    )
    told = {"type": "grammar", "grammar": {"syntax": "lark", "definition": "start: /a/"}}
    assert made["tools"] == [{"type": "custom", "custom": {"name": "patch", "description": "d", "format": told}}]
    assert made["tool_choice"] == {"type": "custom", "custom": {"name": "patch"}}
    call, output = made["messages"]
    assert call["tool_calls"] == [{"id": "c1", "type": "custom", "custom": {"name": "patch", "input": "a"}}]
    assert output == {"role": "tool", "tool_call_id": "c1", "content": "ok"}


def test_tools_of_a_namespace_have_one_name_of_both():
    """A chat knows no namespaces; names that would be too long or taken are cut, and still told apart."""
    spaces = [
        {"type": "namespace", "name": "agents", "description": "d", "tools": [LOOK, {**LOOK, "name": "x" * 80}]},
        {**LOOK, "name": "mail__look"},
        {"type": "namespace", "name": "mail", "tools": [LOOK]},
    ]
    call = {**CALL, "namespace": "agents"}
    made = chat_of(tools=spaces, input=[call, {"type": "function_call_output", "call_id": "c1", "output": ""}])
    names = [tool["function"]["name"] for tool in made["tools"]]
    assert names[0] == made["messages"][0]["tool_calls"][0]["function"]["name"] == "agents__look"
    assert names[2] == "mail__look"
    assert names[1].startswith("agents__xxx")
    assert names[3].startswith("mail__look_")
    assert len(set(names)) == 4
    assert max(map(len, names)) == 64


def test_only_allowed_tools_are_told():
    """Every provider knows the tools that it is told; few know that only some of them are allowed."""
    made = chat_of(
        tools=[LOOK, {**LOOK, "name": "hear"}],
        tool_choice={"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "hear"}]},
        parallel_tool_calls=False,
    )
    assert [tool["function"]["name"] for tool in made["tools"]] == ["hear"]
    assert (made["tool_choice"], made["parallel_tool_calls"]) == ("required", False)


SAID = {"role": "assistant", "content": "y"}
CALLED = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
THOUGHT = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "z" * 20}]}


@pytest.mark.parametrize(
    ("first", "repeated"),
    [([], {"role": "system", "content": "x" * 20}), ([CALLED], SAID), ([], THOUGHT)],
    ids=["system", "said", "thought"],
)
def test_a_conversation_of_very_many_items_is_read_in_no_time(first: list, repeated: dict) -> None:
    """Each is looked at once: a few megabytes of them must not stop everybody else."""
    items = [{"role": "user", "content": "x"}, *first, *([repeated] * 40_000)]
    body = json.dumps({"model": "m", "input": items}).encode()
    began_s = time.process_time()
    parse_responses(body)
    assert time.process_time() - began_s < 5
