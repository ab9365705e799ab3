"""Requests that are none, in every way: refused with the field named, nothing held, nothing broken."""

import asyncio
import json
from typing import Any

import pytest

from tests.unit.edge.world import World
from tests.unit.edge.world_owners import KEY

HI = [{"role": "user", "content": "Hi"}]
BODIES: dict[str, dict[str, Any]] = {
    "/chat/completions": {"model": "fast", "messages": HI, "max_tokens": 5},
    "/messages": {"model": "fast", "messages": HI, "max_tokens": 5},
    "/messages/count_tokens": {"model": "fast", "messages": HI},
    "/responses": {"model": "fast", "input": "Hi", "max_output_tokens": 5},
    "/completions": {"model": "fast", "prompt": "Hi", "max_tokens": 5},
    "/embeddings": {"model": "fast", "input": "Hi"},
    "/moderations": {"model": "fast", "input": "Hi"},
}
CHAT, MESSAGES, RESPONSES = "/chat/completions", "/messages", "/responses"
SAMPLING = ("temperature", "top_p")
WRONG: dict[str, list[str]] = {  # JSON that none of these fields takes
    "model": ["null", "7", '""', "[]", "{}", "true", "-0", "1.5", '"%s"' % ("m" * 300)],
    "messages": ["null", "7", '""', "[]", "{}", "[null]", "[7]", "[[]]", "[{}]", '[{"role":"wizard","content":"x"}]'],
    "temperature": ['"x"', "-1", "3", "[]", "true", "9" * 40, "-1e300"],
    "top_p": ['"x"', "-0.1", "1.1", "{}"],
    "stream": ['"yes"', "1", "[]"],
    "tools": ["7", '"x"', "{}", "[7]", '[{"function":7}]', '[{"type":7}]'],
    "tool_choice": ["7", "[]", "1.5"],
    "metadata": ["7", '"x"', "[]"],
}
FIELDS: dict[str, tuple[str, ...]] = {
    CHAT: ("messages", *SAMPLING, "stream", "tools", "tool_choice", "metadata"),
    MESSAGES: ("messages", *SAMPLING, "stream", "tools", "tool_choice", "metadata"),
    "/messages/count_tokens": ("messages", "tools", "tool_choice"),
    RESPONSES: (*SAMPLING, "stream", "tools", "tool_choice", "metadata"),
    "/completions": (*SAMPLING, "stream"),
}
BROKEN: dict[str, bytes] = {
    "nothing": b"",
    "half": b'{"model":',
    "a list": b"[]",
    "a text": b'"x"',
    "null": b"null",
    "two values": b"{} {}",
    "a comma too many": b'{"model":"fast",}',
    "single quotes": b"{'model':'fast'}",
    "no utf-8": b'{"model":"\xff"}',
    "another encoding": '{"model":"fast"}'.encode("utf-16"),
    "a zero byte": b"\0",
    "a bomb": b"[" * 100_000,
    "gzip": b"\x1f\x8b\x08" + bytes(30),
    "a form": b"model=fast&messages=x",
}


def written(path: str, field: str, value: str) -> bytes:
    """A body with this JSON for a field."""
    rest = [f"{json.dumps(name)}: {json.dumps(each)}" for name, each in BODIES[path].items() if name != field]
    return ("{" + ", ".join([*rest, f"{json.dumps(field)}: {value}"]) + "}").encode()


def refusals() -> dict[str, tuple[str, bytes, str]]:
    """Endpoint, body and field to blame, by a name."""
    found: dict[str, tuple[str, bytes, str]] = {}
    for path, body in BODIES.items():
        for field in ("model", *FIELDS.get(path, ())):
            for value in WRONG[field]:
                found[f"{path} {field}={value[:40]}"] = (path, written(path, field, value), field)
        optional = {"max_tokens", "max_output_tokens", "model" if path == "/moderations" else ""}
        for field in body.keys() - optional:
            left_out = {name: value for name, value in body.items() if name != field}
            found[f"{path} without {field}"] = (path, json.dumps(left_out).encode(), field)
        for name, data in BROKEN.items():
            found[f"{path} {name}"] = (path, data, "")
        found[f"{path} not a number"] = (path, written(path, "x", "NaN"), "")
        found[f"{path} infinity"] = (path, written(path, "x", "-Infinity"), "")
        found[f"{path} beyond all numbers"] = (path, written(path, "x", "1e999"), "")
        found[f"{path} half a sign"] = (path, written(path, "model", r'"\ud800"'), "")
        found[f"{path} 65 levels"] = (path, written(path, "x", "[" * 64 + "]" * 64), "")
        found[f"{path} a field twice"] = (path, json.dumps(body).encode()[:-1] + b', "model": 7}', "model")
    return found


async def test_what_is_malformed_is_refused_by_name(world: World):
    """Each with 400, its endpoint's error shape, the field, and its id; then all goes on as before."""
    wrong, cases = [], refusals()
    assert len(cases) > 300

    async def try_one(name: str, path: str, body: bytes, field: str) -> None:
        headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
        async with at_once, world.session.post(f"{world.base_url}/v1{path}", data=body, headers=headers) as response:
            answer = await response.json()
        error = answer.get("error", {})
        blamed = error["param"] or "" if "param" in error else error.get("message", "")
        shaped = (answer.get("type") == "error") == path.startswith(MESSAGES)
        if response.status != 400 or not shaped or not response.headers.get("x-request-id") or field not in blamed:
            wrong.append((name, response.status, answer))

    at_once = asyncio.Semaphore(20)
    async with asyncio.timeout(60):
        await asyncio.gather(*(try_one(name, *case) for name, case in cases.items()))
    assert not wrong
    assert not world.truth.decisions
    assert not world.truth.held
    async with world.post(json.dumps(BODIES[CHAT]).encode()) as response:
        assert response.status == 200


@pytest.mark.parametrize("path", BODIES)
async def test_sixty_four_levels_are_not_too_deep(world: World, path: str):
    """What stands in an unknown field is the provider's to judge."""
    headers = {"authorization": f"Bearer {KEY}"}
    body = written(path, "x", "[" * 63 + "]" * 63)
    async with world.session.post(f"{world.base_url}/v1{path}", data=body, headers=headers) as response:
        answer = await response.text()
    assert "levels" not in answer
    assert response.status != 500
