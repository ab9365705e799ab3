"""Edge in its small world, new for each test."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.edge import publisher
from tests.unit.edge.world import World, edge_world


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Billing is asked often, so that no test waits for it."""
    monkeypatch.setattr(publisher, "CONFIRM_EVERY_S", 0.05)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """A running edge whose owners, bus and provider live in this process."""
    async with edge_world(tmp_path / "spool") as made:
        yield made
