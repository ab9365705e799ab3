"""What is made of a request with many objects is made in a thread, however few its bytes: all streams share a loop."""

import json
import threading
from typing import Any

import pytest

from services.edge.bodies import request_body
from services.edge.routes import count_tokens
from services.edge.wires.chat import ChatOverOpenAI
from services.edge.wires.messages import MessagesOverOpenAI
from services.edge.wires.responses import ResponsesOver
from tests.unit.edge.test_stream_options import ENDPOINTS
from tests.unit.edge.web_provider import Provider, whole
from tests.unit.edge.world import World

WHOLE = {
    "id": "c",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}],
}
MANY = [{"role": "user", "content": "x"}] * (request_body.MANY_CONTAINERS + 1)
FEW = [{"role": "user", "content": "x" * request_body.TINY_BYTES}]
WIRES = {"/chat/completions": ChatOverOpenAI, "/messages": MessagesOverOpenAI, "/responses": ResponsesOver}


def watch(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, seen: dict[str, bool]) -> None:
    """Notes whether a function of `owner` runs on the loop."""
    real = getattr(owner, name)

    def noted(*arguments: Any, **named: Any) -> Any:
        seen[name] = threading.current_thread() is threading.main_thread()
        return real(*arguments, **named)

    monkeypatch.setattr(owner, name, noted)


@pytest.mark.parametrize("messages", [FEW, MANY], ids=["few", "many"])
@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("path", WIRES)
async def test_many_objects_are_read_and_translated_aside(
    *, world: World, provider: Provider, monkeypatch: pytest.MonkeyPatch, path: str, streams: bool, messages: list[Any]
):
    """The check, the call, the reader of the answer; a usual request needs no thread for it."""
    seen: dict[str, bool] = {}
    for name in ("check", "call", "stream" if streams else "answer"):
        watch(monkeypatch, WIRES[path], name, seen)
    provider.handlers = [ENDPOINTS["/chat/completions"][1] if streams else whole(WHOLE)]
    world.truth.routes[0]["bounds"] = {"context": 1_000_000}
    body = {
        "model": "fast",
        "max_tokens": 9,
        "input" if path == "/responses" else "messages": messages,
        "stream": streams,
    }
    async with world.post(body, path=path) as response:
        assert response.status == 200, await response.text()
        await response.read()
    assert seen == dict.fromkeys(seen, messages is FEW)
    assert len(seen) == 3
    await world.settled()


async def test_a_large_answer_to_a_small_request_is_read_aside(
    world: World, provider: Provider, monkeypatch: pytest.MonkeyPatch
):
    """Vectors may be many megabytes, likelihoods many objects."""
    seen: dict[str, bool] = {}
    watch(monkeypatch, ChatOverOpenAI, "answer", seen)
    provider.handlers = [whole({**WHOLE, "more": MANY})]
    async with world.post(world.body()) as response:
        assert response.status == 200, await response.text()
    assert seen == {"answer": False}
    await world.settled()


async def test_many_objects_are_counted_aside(world: World, monkeypatch: pytest.MonkeyPatch):
    """Also what count_tokens looks at."""
    seen: dict[str, bool] = {}
    for name in ("parse_count", "refuse_costly"):
        watch(monkeypatch, count_tokens, name, seen)
    async with world.post({"model": "fast", "messages": MANY}, path="/messages/count_tokens") as response:
        assert response.status == 200, await response.text()
    assert seen == {"parse_count": False, "refuse_costly": False}


def test_few_bytes_of_text_are_not_many_objects() -> None:
    """A usual body is looked at where it is."""
    assert not request_body.is_large(json.dumps({"messages": FEW}).encode())
    assert request_body.is_large(json.dumps({"messages": MANY}).encode())
    assert not request_body.is_large(b"{" * request_body.TINY_BYTES)
