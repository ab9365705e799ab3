"""Edges tell each other that they run, and with which configuration."""

import asyncio

import pytest

from chassis.config_state import ConfigState
from chassis.errors import Code, TollbridgeError
from services.edge.admin import peers
from services.edge.admin.peers import MOST_PEERS, SILENT_S, Peers
from tollbridge.edge.v1 import edge_pb2


class Clock:
    """Seconds that a test sets."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Bus:
    """Brings what one edge tells to others; it may be away."""

    def __init__(self, *others: Peers) -> None:
        self.others = others
        self.told = asyncio.Event()
        self.is_down = False

    async def announce(self, _subject: str, data: bytes) -> None:
        self.told.set()
        if self.is_down:
            raise TollbridgeError(Code.UNAVAILABLE, "no bus")
        for other in self.others:
            await other.on_message(data)


async def tell(edge: Peers, bus: Bus) -> None:
    """Until it was told once."""
    running = asyncio.create_task(edge.run(bus))
    await asyncio.wait_for(bus.told.wait(), 20)
    running.cancel()
    await asyncio.wait({running})


async def test_an_edge_knows_those_that_it_hears_and_itself() -> None:
    """One that refused a changed file says why; one that is silent is no more."""
    clock = Clock()
    here = Peers(name="m/0", own=lambda: ConfigState(hash="new"), clock=clock)
    there = Peers(name="m/1", own=lambda: ConfigState(hash="old", loaded_at_us=5, error="line 7: no"), clock=clock)
    assert here.states() == {"m/0": ConfigState(hash="new")}
    await tell(there, Bus(here, there))
    both = {"m/0": ConfigState(hash="new"), "m/1": ConfigState(hash="old", loaded_at_us=5, error="line 7: no")}
    assert here.states() == both
    clock.now_s = SILENT_S
    assert here.states() == both
    clock.now_s = SILENT_S + 0.1
    assert list(here.states()) == ["m/0"]


async def test_a_change_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever changed the file asks any edge, within two seconds, whether all have it."""
    monkeypatch.setattr(peers, "TELL_EVERY_S", 3600)
    here, state = Peers(name="m/0", own=ConfigState), ConfigState(hash="old")
    there = Peers(name="m/1", own=lambda: state)
    bus = Bus(here)
    running = asyncio.create_task(there.run(bus))
    try:
        await asyncio.wait_for(bus.told.wait(), 20)
        bus.told.clear()
        state = ConfigState(hash="new")
        await asyncio.wait_for(bus.told.wait(), 20)
        assert here.states()["m/1"] == state
    finally:
        running.cancel()
        await asyncio.wait({running})


async def test_without_a_bus_an_edge_knows_itself() -> None:
    """And nothing ends because of it."""
    here = Peers(name="m/0", own=lambda: ConfigState(hash="new"))
    bus = Bus(here)
    bus.is_down = True
    await tell(here, bus)
    assert list(here.states()) == ["m/0"]


async def test_what_is_heard_takes_bounded_memory() -> None:
    """Whatever is sent: what is no message is passed over."""
    here = Peers(name="m/0", own=ConfigState)
    await here.on_message(b"\xff\xff")
    for number in range(MOST_PEERS + 5):
        await here.on_message(edge_pb2.EdgeRunning(name=f"n/{number}").SerializeToString())
    assert len(here.states()) == MOST_PEERS + 1
