"""A response that its provider can't be asked for is refused by the names that its client wrote."""

from typing import Any

import pytest

from tests.unit.edge.web_provider import Provider
from tests.unit.edge.world import World
from tests.unit.edge.world_owners import KEY

CALL = {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"}
OUTPUT = {"type": "function_call_output", "call_id": "c1", "output": "x"}
CUSTOM = {"type": "custom_tool_call", "call_id": "c2", "name": "patch", "input": "*** Begin"}
SAID = {"role": "user", "content": "Hi"}
BAD_IMAGE = {"role": "user", "content": [{"type": "input_image", "image_url": "nowhere"}]}


@pytest.mark.parametrize(
    ("items", "param"),
    [
        ([SAID, CUSTOM], "input[1]"),
        ([SAID, CALL, {"type": "reasoning", "summary": []}, CUSTOM, OUTPUT], "input[3]"),
        ([SAID, CALL, OUTPUT, SAID, SAID, CUSTOM], "input[5]"),
        ([SAID, BAD_IMAGE], "input"),
    ],
)
async def test_what_anthropic_is_not_told_is_named_as_the_item_that_it_is(
    world: World, provider: Provider, items: list[dict[str, Any]], param: str
) -> None:
    """Not as a message of the chat that was made of it."""
    world.truth.routes[0]["protocol"] = "anthropic"
    body = {"model": "fast", "input": items}
    headers = {"authorization": f"Bearer {KEY}"}
    async with world.session.post(f"{world.base_url}/v1/responses", json=body, headers=headers) as response:
        told = await response.json()
    assert (response.status, told["error"]["param"]) == (400, param)
    assert "messages[" not in told["error"]["message"]
    assert provider.calls == []
