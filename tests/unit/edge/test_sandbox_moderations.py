"""Moderations without any provider: the sandbox has them, and they can be quoted."""

import pytest

from services.edge.paid.quoted_call import called
from tests.unit.edge.world import World


@pytest.mark.parametrize(
    ("given", "flagged"),
    [
        ("A kind word", [False]),
        (["Some violence", "and none"], [True, False]),
        ([{"type": "text", "text": "Hate"}, {"type": "image_url", "image_url": {"url": "https://x/y.png"}}], [True]),
    ],
    ids=["a text", "texts", "parts"],
)
async def test_the_sandbox_moderates(world: World, given: object, flagged: list[bool]):
    """A result for each text, one for all parts; what is named is flagged."""
    async with world.post({"model": "fast", "input": given}, path="/moderations") as response:
        told = await response.json()
        assert response.status == 200, told
    assert [result["flagged"] for result in told["results"]] == flagged
    assert (told["model"], "usage" in told) == ("fast", False)
    for result in told["results"]:
        assert result["flagged"] == any(result["categories"].values())
    await world.settled()


async def test_the_sandbox_fails_moderations_as_told(world: World):
    """As everything else that it offers."""
    body = {"model": "fast", "input": '#sandbox {"status": 400, "message": "too long"}'}
    async with world.post(body, path="/moderations") as response:
        assert (response.status, (await response.json())["error"]["message"]) == (400, "too long")


@pytest.mark.parametrize(
    ("capabilities", "name"),
    [(["moderation"], "moderations"), (["chat"], "responses"), (["chat", "moderation"], "responses")],
)
def test_a_body_with_an_input_is_a_moderation_for_models_that_only_moderate(capabilities: list[str], name: str):
    """They are of the category chat; what they can do tells them from models that answer."""
    operation = called({"input": ["Hi"]}, [], category="chat", capabilities=capabilities)
    assert operation is not None
    assert operation.name == name
