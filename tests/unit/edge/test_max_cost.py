"""`X-Max-Cost`: a request that could cost more is refused before anything runs."""

import json

import pytest

from tests.unit.edge.world import World


def worst(body: bytes, max_tokens: int) -> str:
    """The worst case of a body at the world's price: a token a byte in, all of `max_tokens` out, in USD."""
    nano = len(body) * 1_000 + max_tokens * 4_000
    return f"0.{nano:09d}"


async def test_a_request_that_could_cost_more_is_refused_before_anything_runs(world: World):
    """400 names the worst case; no money was asked for and no provider was called."""
    body = json.dumps(world.body(max_tokens=100)).encode()
    async with world.post(body, headers={"x-max-cost": "0.0000001"}) as response:
        assert response.status == 400
        error = (await response.json())["error"]
    assert error["code"] == "max_cost_exceeded"
    assert worst(body, 100) in error["message"]
    await world.settled()
    assert not world.truth.asked
    assert not world.truth.applied


async def test_a_request_whose_worst_case_is_just_allowed_runs(world: World):
    """The limit itself is not more than the limit."""
    body = json.dumps(world.body(max_tokens=100)).encode()
    async with world.post(body, headers={"x-max-cost": worst(body, 100)}) as response:
        assert response.status == 200, await response.text()


@pytest.mark.parametrize("value", ["", "much", "-1", "NaN", "1_0", "0.0000000001"])
async def test_a_limit_that_is_no_amount_is_refused(world: World, value: str):
    """A limit that can't be read must not pass for none."""
    async with world.post(world.body(), headers={"x-max-cost": value}) as response:
        assert response.status == 400
        assert (await response.json())["error"]["param"] == "X-Max-Cost"
