"""What other gateways get wrong in requests between the two protocols, each as a promise that it is right here."""

import json
import re
from typing import Any

import pytest

from chassis.errors import TollbridgeError
from pricing.tokens import Tokens
from services.edge.translate import messages_over_chat
from services.edge.translate.chat_to_messages import messages_request
from services.edge.translate.messages_to_chat import chat_request, own_tool_names
from tests.fakes.routes import route_to
from upstream.anthropic import native
from upstream.openai import chat

USER = {"role": "user", "content": "Hi"}
CALLS = [{"id": f"t{n}", "type": "function", "function": {"name": "f", "arguments": "{}"}} for n in (1, 2)]
RESULTS = [{"role": "tool", "tool_call_id": f"t{n}", "content": f"r{n}"} for n in (1, 2)]
TOOL = {"type": "function", "function": {"name": "f"}}
OPEN = {"type": "object", "additionalProperties": True}


def to_messages(*messages: dict[str, Any], **fields: Any) -> Any:
    """A chat request as Anthropic's providers get it."""
    return messages_request({"messages": list(messages), **fields}, max_tokens=50)


def to_chat(*messages: dict[str, Any], **fields: Any) -> Any:
    """A Messages request as OpenAI's providers get it."""
    return chat_request({"messages": list(messages), "max_tokens": 50, **fields})


def sent(fields: dict[str, Any], *, stream: bool, limit_field: str = "max_tokens") -> Any:
    """What a provider of OpenAI's protocol is sent."""
    route = route_to(max_tokens_field=limit_field)
    if "system" in fields:
        call = native.prepare(fields, route, max_tokens=5, stream=stream, request_id="r", headers={})
    else:
        call = chat.prepare(fields, route, max_tokens=5, stream=stream, request_id="r")
    return json.loads(call.body)


@pytest.mark.parametrize(
    "content", ["", " ", "\n\t", [{"type": "text", "text": ""}], [{"type": "text", "text": " \n"}]]
)
def test_texts_without_a_word_are_left_out(content: object) -> None:
    """Anthropic refuses a conversation for one of them, and clients send them beside calls."""
    made = to_messages(USER, {"role": "assistant", "content": content, "tool_calls": CALLS}, *RESULTS)
    assert [block["type"] for block in made["messages"][1]["content"]] == ["tool_use", "tool_use"]


@pytest.mark.parametrize("content", ["The answer is \n", [{"type": "text", "text": "The answer is  "}]])
def test_an_answer_that_is_begun_does_not_end_in_white_space(content: object) -> None:
    """Anthropic refuses that; elsewhere white space stays as it is."""
    made = to_messages({**USER, "content": "Hi "}, {"role": "assistant", "content": content})
    assert made["messages"][1]["content"][-1]["text"] == "The answer is"
    assert made["messages"][0]["content"][0]["text"] == "Hi "


def test_results_of_parallel_calls_are_one_turn() -> None:
    """In the turn right after the calls, with what the user says next behind them."""
    made = to_messages(USER, {"role": "assistant", "tool_calls": CALLS}, *RESULTS, USER)
    assert [message["role"] for message in made["messages"]] == ["user", "assistant", "user"]
    kinds = [block["type"] for block in made["messages"][2]["content"]]
    assert kinds == ["tool_result", "tool_result", "text"]


def test_a_result_without_a_word_is_a_result() -> None:
    """Left out, its call would have none, which is refused."""
    made = to_messages(USER, {"role": "assistant", "tool_calls": CALLS[:1]}, {**RESULTS[0], "content": ""})
    assert made["messages"][2]["content"] == [{"type": "tool_result", "tool_use_id": "t1", "content": ""}]


@pytest.mark.parametrize("role", ["system", "developer"])
def test_no_system_message_is_lost(role: str) -> None:
    """Several of them, anywhere, under either name."""
    made = to_messages({"role": role, "content": "a"}, USER, {"role": role, "content": [{"type": "text", "text": "b"}]})
    assert [block["text"] for block in made["system"]] == ["a", "b"]
    assert len(made["messages"]) == 1


def test_several_system_blocks_are_all_told() -> None:
    """The other way round."""
    made = to_chat(USER, system=[{"type": "text", "text": "a"}, {"type": "text", "text": "b"}])
    assert made["messages"][0] == {"role": "system", "content": "a\n\nb"}


@pytest.mark.parametrize(("stop", "expected"), [("END", ["END"]), (["a", "b"], ["a", "b"])])
def test_a_stop_may_be_one_text(stop: object, expected: list[str]) -> None:
    """Anthropic takes a list only."""
    assert to_messages(USER, stop=stop)["stop_sequences"] == expected


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("none", {"type": "none"}),
        ("auto", {"type": "auto"}),
        ("required", {"type": "any"}),
        ({"type": "function", "function": {"name": "f"}}, {"type": "tool", "name": "f"}),
    ],
)
def test_no_choice_of_tools_is_lost(choice: object, expected: object) -> None:
    """`none` above all: left out, tools are called that must not be."""
    assert to_messages(USER, tools=[TOOL], tool_choice=choice)["tool_choice"] == expected


def test_a_choice_without_tools_is_left_out() -> None:
    """Anthropic refuses it."""
    assert "tool_choice" not in to_messages(USER, tool_choice="auto")


@pytest.mark.parametrize("parameters", [None, {}, {"properties": {"a": {"type": "string"}}}])
def test_every_schema_has_a_type(parameters: object) -> None:
    """Tools without parameters, or whose schema leaves the type out, are refused there otherwise."""
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    assert to_messages(USER, tools=[tool])["tools"][0]["input_schema"]["type"] == "object"


@pytest.mark.parametrize("arguments", ["null", " ", "", None, "{}"])
def test_calls_without_arguments_have_an_empty_input(arguments: object) -> None:
    """Clients give back what streams gave them."""
    call = {"id": "t", "type": "function", "function": {"name": "f", "arguments": arguments}}
    made = to_messages(USER, {"role": "assistant", "content": None, "tool_calls": [call]})
    assert made["messages"][1]["content"][0]["input"] == {}


def test_images_are_handed_on_both_ways() -> None:
    """As data or as links, with their types, in their places."""
    urls = ["data:image/png;base64,QUJD", "https://example.com/a.jpg"]
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    made = to_messages({"role": "user", "content": [{"type": "text", "text": "See"}, *parts]})["messages"][0]
    assert made["content"][1]["source"] == {"type": "base64", "media_type": "image/png", "data": "QUJD"}
    assert made["content"][2]["source"] == {"type": "url", "url": urls[1]}
    assert to_chat(made)["messages"][0]["content"][1:] == parts


def test_results_stand_before_what_the_user_says() -> None:
    """Chat's providers want them right after the calls, wherever they stood in the user's turn."""
    blocks = [{"type": "text", "text": "Go on"}, {"type": "tool_result", "tool_use_id": "t1", "content": "r"}]
    uses = [{"type": "tool_use", "id": "t1", "name": "f", "input": {}}]
    made = to_chat(USER, {"role": "assistant", "content": uses}, {"role": "user", "content": blocks})
    assert [message["role"] for message in made["messages"]] == ["user", "assistant", "tool", "user"]
    assert made["messages"][1]["content"] is None


def test_a_failed_tool_stays_one() -> None:
    """Chat has no mark for it, so it is said."""
    uses = [{"type": "tool_use", "id": "t1", "name": "f", "input": {}}]
    result = {"type": "tool_result", "tool_use_id": "t1", "content": "no", "is_error": True}
    made = to_chat(USER, {"role": "assistant", "content": uses}, {"role": "user", "content": [result]})
    assert made["messages"][2]["content"] == "Error: no"


def test_a_temperature_beyond_anthropics_is_its_highest() -> None:
    """And only one of temperature and top_p is sent: its newer models refuse both."""
    made = to_messages(USER, temperature=1.7, top_p=0.5)
    assert made["temperature"] == 1
    assert "top_p" not in made


def test_usage_is_asked_for_in_streams_only() -> None:
    """`stream_options` without a stream is refused by OpenAI, and by Anthropic always."""
    options = {"stream_options": {"include_usage": False, "include_obfuscation": False}}
    assert sent(options, stream=True)["stream_options"] == {"include_usage": True, "include_obfuscation": False}
    assert "stream_options" not in sent(options, stream=False)
    assert "stream_options" not in to_messages(USER, stream_options={"include_usage": True})
    assert "stream_options" not in sent({"system": "s", "messages": [USER]}, stream=True)


@pytest.mark.parametrize("theirs", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("clients", ["max_tokens", "max_completion_tokens"])
def test_the_limit_has_the_name_that_the_provider_knows(clients: str, theirs: str) -> None:
    """And never both: reasoning models refuse the one, older servers the other."""
    made = sent({clients: 9, "messages": [USER]}, stream=False, limit_field=theirs)
    assert {name: made.get(name) for name in ("max_tokens", "max_completion_tokens") if name in made} == {theirs: 5}


def test_whoever_gives_back_thoughts_keeps_his_conversation() -> None:
    """Chat's reasoning comes back in the next request, and is no field that Anthropic would refuse."""
    made = to_messages(USER, {"role": "assistant", "content": "a", "reasoning_content": "hm", "refusal": None}, USER)
    assert made["messages"][1] == {"role": "assistant", "content": [{"type": "text", "text": "a"}]}


@pytest.mark.parametrize("theirs", ["functions.look:0", "call|1", "a b", ""])
def test_ids_of_calls_are_made_of_signs_that_anthropic_takes(theirs: str) -> None:
    """Other providers write other ids, and a conversation that goes on at Anthropic would be refused for them."""
    call = {**CALLS[0], "id": theirs}
    made = to_messages(
        USER, {"role": "assistant", "tool_calls": [call]}, {"role": "tool", "tool_call_id": theirs, "content": "r"}
    )
    sent_id = made["messages"][1]["content"][0]["id"]
    assert re.fullmatch(r"[a-zA-Z0-9_-]+", sent_id)
    assert made["messages"][2]["content"][0]["tool_use_id"] == sent_id


def test_ids_that_differ_in_strange_signs_only_stay_two() -> None:
    """Two calls of one turn must not become one."""
    calls = [{**CALLS[0], "id": theirs} for theirs in ("f.look:0", "f:look.0", "f_look_0")]
    made = to_messages(USER, {"role": "assistant", "tool_calls": calls})
    assert len({block["id"] for block in made["messages"][1]["content"]}) == 3


def test_arguments_that_are_no_object_do_not_end_a_conversation() -> None:
    """A model got them wrong, or a limit has cut them: OpenAI takes that back, and so does every provider here."""
    for arguments in ('{"city": "Zü', "[1]"):
        call = {**CALLS[0], "function": {"name": "f", "arguments": arguments}}
        made = to_messages(USER, {"role": "assistant", "tool_calls": [call]}, RESULTS[0])
        assert made["messages"][1]["content"][0]["input"] == {"arguments": arguments}


def test_tools_that_were_called_are_told_when_none_are_offered_any_more() -> None:
    """Anthropic refuses calls of tools that it was not told of; they are told, and can't be called."""
    made = to_messages(USER, {"role": "assistant", "tool_calls": CALLS}, *RESULTS)
    assert [tool["name"] for tool in made["tools"]] == ["f"]
    assert made["tool_choice"] == {"type": "none"}
    assert "tools" not in to_messages(USER)


def test_a_refusal_of_an_earlier_turn_is_not_lost() -> None:
    """Else two turns of the user's would become one."""
    made = to_messages(USER, {"role": "assistant", "content": None, "refusal": "I won't."}, USER)
    assert made["messages"][1] == {"role": "assistant", "content": [{"type": "text", "text": "I won't."}]}


def test_jpegs_have_their_name_and_texts_are_no_pdfs() -> None:
    """Anthropic takes `image/jpeg` only, and of files only PDFs as bytes."""
    image = {"type": "image_url", "image_url": {"url": "data:image/jpg;base64,aGk="}}
    text = {"type": "file", "file": {"filename": "a.csv", "file_data": "data:text/csv;base64,YcO8LGI="}}
    pdf = {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,aGk="}}
    blocks = to_messages({"role": "user", "content": [image, text, pdf]})["messages"][0]["content"]
    assert blocks[0]["source"]["media_type"] == "image/jpeg"
    plain = {"type": "text", "media_type": "text/plain", "data": "aü,b"}
    assert blocks[1] == {"type": "document", "source": plain, "title": "a.csv"}
    assert blocks[2]["source"] == {"type": "base64", "media_type": "application/pdf", "data": "aGk="}
    for data in ("aaaaa", "/w=="):
        bad = {"type": "file", "file": {"file_data": f"data:text/plain;base64,{data}"}}
        with pytest.raises(TollbridgeError):
            to_messages({"role": "user", "content": [bad]})


def test_objects_of_a_schema_are_closed_where_they_say_nothing() -> None:
    """Anthropic wants it said, OpenAI does not."""
    inner = {"type": ["object", "null"], "properties": {"type": {"type": "string"}}}
    schema = {"type": "object", "properties": {"a": {"type": "array", "items": inner}}, "$defs": {"b": OPEN}}
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    made = to_messages(USER, response_format=wanted)["output_config"]["format"]["schema"]
    assert made["additionalProperties"] is False
    assert made["properties"]["a"]["items"] == {**inner, "additionalProperties": False}
    assert made["$defs"]["b"] == OPEN


def test_what_is_too_long_for_openai_is_cut_alike_everywhere() -> None:
    """Claude Code's users have 150 letters, and tools of MCP servers more than 64."""
    long = "mcp__" + "x" * 90
    use = {"type": "tool_use", "id": "chatcmpl-tool-" + "1" * 32, "name": long, "input": {}}
    made = to_chat(
        USER,
        {"role": "assistant", "content": [use]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": use["id"], "content": "r"}]},
        tools=[{"name": long, "input_schema": {"type": "object"}}],
        tool_choice={"type": "tool", "name": long},
        metadata={"user_id": "user_" + "0" * 150},
    )
    call = made["messages"][1]["tool_calls"][0]
    name = made["tools"][0]["function"]["name"]
    assert len(name) <= 64
    assert name == call["function"]["name"] == made["tool_choice"]["function"]["name"]
    assert len(call["id"]) <= 40
    assert made["messages"][2]["tool_call_id"] == call["id"]
    assert len(made["user"]) <= 64
    assert made["tools"][0]["function"]["parameters"] == {"type": "object", "properties": {}}
    assert own_tool_names([{"name": long}, {"name": "f"}]) == {name: long, "f": "f"}


def test_a_long_name_comes_back_as_the_client_wrote_it() -> None:
    """Whole and streamed: a client runs the tool by the name that it gave."""
    long = "mcp__" + "x" * 90
    names = own_tool_names([{"name": long}])
    call = {"index": 0, "id": "c", "function": {"name": next(iter(names)), "arguments": "{}"}}
    whole = {"choices": [{"index": 0, "message": {"tool_calls": [call]}, "finish_reason": "tool_calls"}]}
    answer = messages_over_chat.read_answer(json.dumps(whole).encode(), model="m", stops=(), names=names)
    assert json.loads(answer.render(tokens=Tokens(), cost=None))["content"][0]["name"] == long
    reader = messages_over_chat.MessagesOverChat(model="m", stops=(), names=names)
    chunk = {"choices": [{"index": 0, "delta": {"tool_calls": [call]}, "finish_reason": None}]}
    assert f'"name":"{long}"'.encode() in reader.feed(b"data: " + json.dumps(chunk).encode() + b"\n\n")


def test_a_field_that_may_be_missing_is_asked_for_without_strictness() -> None:
    """OpenAI's strict mode refuses optional fields, which Anthropic's clients have."""

    def wanted(**fields: Any) -> Any:
        schema = {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}}, **fields}
        made = to_chat(USER, output_config={"format": {"type": "json_schema", "schema": schema}})
        return schema, made["response_format"]["json_schema"]

    schema, named = wanted(required=["a"], additionalProperties=False)
    assert named == {"name": "answer", "schema": schema, "strict": False}
    schema, named = wanted(required=["a", "b"])
    assert named == {"name": "answer", "schema": {**schema, "additionalProperties": False}, "strict": True}
    assert wanted(required=["a", "b"], additionalProperties=True)[1]["strict"] is False
    nested = {"c": {"type": "array", "items": {"type": "object", "properties": {"d": {}}}}}
    assert wanted(properties=nested, required=["c"])[1]["strict"] is False


@pytest.mark.parametrize("theirs", ["ada@example.com", "+41 44 123 45 67", "044-123-4567", "u" * 300])
def test_nobody_is_named_to_anthropic(theirs: str) -> None:
    """It refuses requests for an address in the user's id, which chat's clients put there."""
    told = to_messages(USER, user=theirs)["metadata"]["user_id"]
    assert re.fullmatch(r"[0-9a-f]{64}", told)
    assert told == to_messages(USER, safety_identifier=theirs)["metadata"]["user_id"]
    assert to_messages(USER, user="customer_42")["metadata"] == {"user_id": "customer_42"}
