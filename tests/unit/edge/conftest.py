"""Edge in its small world, new for each test."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.unit.edge.world import World, edge_world


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """A running edge whose owners, bus and provider live in this process."""
    async with edge_world(tmp_path / "spool") as made:
        yield made
