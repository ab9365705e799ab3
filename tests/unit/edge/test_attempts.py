"""What router is told of attempts that nobody waits for any more."""

import asyncio

import pytest

from services.edge.owners import RouterOwner
from tests.unit.edge.world import World, until
from tollbridge.router.v1 import router_pb2


@pytest.mark.parametrize("path", ["/chat/completions", "/messages/count_tokens"])
async def test_who_leaves_before_the_decision_gives_back_a_slot_taken_meanwhile(
    world: World, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """Router hears of the end at once, and not by what the next statement leaves out."""
    asked: list[str] = []

    async def think(_: RouterOwner, *, attempt_id: str, **_rest: object) -> None:
        asked.append(attempt_id)
        await asyncio.Event().wait()

    monkeypatch.setattr(RouterOwner, "decide", think)
    leaving = asyncio.create_task(world.post(world.body(), path=path).__aenter__())
    await until(lambda: asked)
    leaving.cancel()
    await until(lambda: world.truth.finished)
    (end,) = world.truth.finished
    assert (end.attempt_id, end.outcome) == (asked[0], router_pb2.OUTCOME_CANCELLED)
    assert not world.truth.decisions
