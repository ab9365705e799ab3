"""Two replicas of router on one real PostgreSQL: what the tests of this folder ask, and how."""

import dataclasses
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from chassis import db
from chassis.errors import TollbridgeError
from chassis.rpc import Handler
from services.router import store
from services.router.asked import Ask, End
from services.router.breaker import Verdict
from services.router.parts import Parts

CONFIG = """
slots: {wait_s: 0.3}
providers:
  - id: a
    protocol: openai
    base_url: http://127.0.0.1:9/v1
    accounts: [{id: a1, api_key: canary-a1, slots: 2}, {id: a2, api_key: canary-a2, slots: 3}]
  - id: b
    protocol: openai
    base_url: http://127.0.0.1:9/v1
    stream_options: false
    accounts: [{id: b1, api_key: canary-b1}]
  - id: gone
    protocol: openai
    base_url: http://127.0.0.1:9/v1
    without_key: omit
    accounts: [{id: g, api_key: "${NO}"}]
models:
  - {id: narrow, price: {input: 1, output: 2}, routes: [{provider: a, model: m}]}
  - {id: free, aliases: [nick], price: {input: PRICE, output: 2}, routes: [{provider: b, model: m}]}
  - id: both
    price: {input: 1, output: 2}
    routes: [{provider: b, model: m, priority: 1}, {provider: a, model: m, priority: 2}]
  - {id: keyless, price: {input: 1, output: 2}, routes: [{provider: gone, model: m}]}
  - {id: routeless, price: {input: 1, output: 2}, routes: []}
"""


@dataclasses.dataclass(kw_only=True)
class Pair:
    """Two replicas on one database."""

    one: Parts
    two: Parts
    pool: db.Pool
    path: Path


def ask(model: str, **more: object) -> Ask:
    ids = {name: str(uuid.uuid4()) for name in ("request_id", "attempt_id", "spender")}
    return Ask(**{**ids, "model": model, "operation": "chat", **more})  # type: ignore[arg-type]


def end(attempt_id: str, verdict: Verdict = Verdict.GOOD, **more: object) -> End:
    return End(attempt_id=attempt_id, verdict=verdict, name=verdict.value, **more)  # type: ignore[arg-type]


async def rows(pair: Pair) -> dict[str, int]:
    async with db.transaction(pair.pool) as connection:
        cursor = await connection.execute("SELECT account_id, count(*) FROM router.slots GROUP BY 1")
        counted = {str(row[0]): int(row[1]) for row in await cursor.fetchall()}
        in_use = {name: count for name, count in (await store.slots_in_use(connection)).items() if count}
    assert in_use == counted
    return counted


async def slots(pair: Pair) -> set[str]:
    async with db.transaction(pair.pool) as connection:
        cursor = await connection.execute("SELECT attempt_id::text FROM router.slots")
        return {str(row[0]) for row in await cursor.fetchall()}


async def refusal(call: Awaitable[object]) -> TollbridgeError:
    with pytest.raises(TollbridgeError) as caught:
        await call
    return caught.value


def handler(parts: Parts, name: str) -> Callable[..., Awaitable[object]]:
    found = parts.service.handlers[name]
    assert isinstance(found, Handler)
    return found.run
