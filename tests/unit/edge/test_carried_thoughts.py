"""Anthropic's signed thoughts travel through a chat and back, so that a client's tools work while the model thinks."""

import json
from typing import Any

import pytest
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletionChunk

from pricing.tokens import Tokens
from services.edge.translate.chat_over_messages import ChatOverMessages, read_answer
from services.edge.translate.chat_to_messages import messages_request

THOUGHT = {"type": "thinking", "thinking": "Let me look.", "signature": "c2ln"}
HIDDEN = {"type": "redacted_thinking", "data": "c2VjcmV0"}
CALL = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {}}
USER = {"role": "user", "content": "Look!"}
RESULT = {"role": "tool", "tool_call_id": "toolu_1", "content": "Rain."}
BUDGET = {"type": "enabled", "budget_tokens": 1024}


def whole() -> Any:
    """The whole answer as the client gets it."""
    body = {"type": "message", "id": "m", "content": [THOUGHT, HIDDEN, CALL], "stop_reason": "tool_use"}
    answer = read_answer(json.dumps(body).encode(), model="m", created=1)
    return json.loads(answer.render(tokens=Tokens(), cost=None))["choices"][0]["message"]


def streamed() -> Any:
    """The same as a stream, put together by OpenAI's SDK."""
    block = {"type": "content_block_start"}
    piece = {"type": "content_block_delta", "index": 0}
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": {"id": "m", "type": "message"}},
        {**block, "index": 0, "content_block": {"type": "thinking", "thinking": "", "signature": ""}},
        {**piece, "delta": {"type": "thinking_delta", "thinking": "Let me "}},
        {**piece, "delta": {"type": "thinking_delta", "thinking": "look."}},
        {**piece, "delta": {"type": "signature_delta", "signature": "c2ln"}},
        {**block, "index": 1, "content_block": HIDDEN},
        {**block, "index": 2, "content_block": CALL},
        {"type": "content_block_stop", "index": 2},
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 3}},
        {"type": "message_stop"},
    ]
    reader, state = ChatOverMessages(model="m", include_usage=False, created=1), ChatCompletionStreamState()
    for event in events:
        for line in reader.feed(b"data: " + json.dumps(event).encode() + b"\n\n").split(b"\n\n"):
            if line.startswith(b"data: "):
                state.handle_chunk(ChatCompletionChunk.model_validate_json(line[6:]))
    return state.get_final_completion().choices[0].message.model_dump(exclude_none=True)


@pytest.mark.parametrize("answer", [whole, streamed])
def test_signed_thoughts_come_back_to_who_signed_them(answer: Any) -> None:
    """With them the tool's result is answered by a model that still knows why it asked."""
    message = answer()
    assert message["reasoning_content"] == "Let me look."
    made = messages_request({"messages": [USER, message, RESULT], "thinking": BUDGET}, max_tokens=2048)
    assert made["messages"][1]["content"] == [THOUGHT, HIDDEN, CALL]
    assert made["thinking"] == BUDGET


def test_a_budget_without_the_thoughts_is_left_out() -> None:
    """A client that forgets them would get no answer to any tool's result."""
    call = {"id": "toolu_1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    answer = {"role": "assistant", "tool_calls": [call]}
    assert "thinking" not in messages_request({"messages": [USER, answer, RESULT], "thinking": BUDGET}, max_tokens=2048)
    adaptive = {"type": "adaptive"}
    kept = messages_request({"messages": [USER, answer, RESULT], "thinking": adaptive}, max_tokens=2048)
    assert kept["thinking"] == adaptive
    assert messages_request({"messages": [USER], "thinking": BUDGET}, max_tokens=2048)["thinking"] == BUDGET


@pytest.mark.parametrize(
    "given", ["x", [7], [{"type": "text", "text": "x"}], [{**THOUGHT, "signature": ""}], [{"type": "thinking"}], [{}]]
)
def test_what_is_no_signed_thought_is_left_out(given: object) -> None:
    """Anthropic would refuse the conversation for it."""
    answer = {"role": "assistant", "content": "Rain.", "thinking_blocks": given}
    made: Any = messages_request({"messages": [USER, answer, USER]}, max_tokens=50)
    assert made["messages"][1]["content"] == [{"type": "text", "text": "Rain."}]
