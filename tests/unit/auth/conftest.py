"""A database with auth's schema and a replica on it, for each module that asks."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from cli.schema import migrate
from tests.unit.auth.replica import Replica, running


@pytest.fixture(scope="module")
async def database(postgres_url: str) -> str:
    await asyncio.to_thread(migrate, postgres_url, service="auth")
    return postgres_url


@pytest.fixture(scope="module")
async def replica(database: str) -> AsyncIterator[Replica]:
    async with running(database) as one:
        yield one
