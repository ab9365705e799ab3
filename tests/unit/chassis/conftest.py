"""A bus on the tests' NATS."""

from collections.abc import AsyncIterator

import pytest
import structlog

from chassis import bus as bus_module
from chassis.bus import Bus


@pytest.fixture
def quick_bus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every pause of a bus is short."""
    monkeypatch.setattr(bus_module, "FETCH_S", 0.5)
    monkeypatch.setattr(bus_module, "TROUBLE_PAUSE_S", 0.05)
    monkeypatch.setattr(bus_module, "RECONNECT_PAUSE_S", 0.1)


@pytest.fixture
async def bus(nats_url: str, quick_bus: None) -> AsyncIterator[Bus]:
    """Connected, and closed at the end."""
    made = await Bus.connect(nats_url, name="test", log=structlog.get_logger())
    yield made
    await made.close()
