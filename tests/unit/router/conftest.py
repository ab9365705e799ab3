"""The pair of replicas, with empty slots for each test."""

from collections.abc import AsyncIterator
from pathlib import Path

import psycopg
import pytest
from prometheus_client import CollectorRegistry

from chassis import db
from cli.schema import migrate
from services.router.parts import build
from services.router.store_desk import IDLE_MS
from tests.patience import promised
from tests.unit.router.pair import CONFIG, Pair


@pytest.fixture(scope="module")
def schema(postgres_url: str) -> str:
    migrate(postgres_url, service="router")
    return postgres_url


@pytest.fixture
async def pair(schema: str, tmp_path: Path) -> AsyncIterator[Pair]:
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG.replace("PRICE", "1"))
    with psycopg.connect(schema, autocommit=True) as connection:
        connection.execute("DELETE FROM router.slots")
        connection.execute("DELETE FROM router.lapsed_slots")
        connection.execute("DELETE FROM router.rests")
        connection.execute("UPDATE router.provider_accounts SET in_use = 0")
    pool = await db.open_pool(schema, role="router", max_size=8, idle_ms=IDLE_MS)
    pool.timeout = promised(pool.timeout)
    made = [
        build(pool=pool, config_path=path, everybody=frozenset({"edge", "other"}), metrics=CollectorRegistry())
        for _ in range(2)
    ]
    for parts in made:
        await parts.watch.load_first()
    yield Pair(one=made[0], two=made[1], pool=pool, path=path)
    await pool.close()
