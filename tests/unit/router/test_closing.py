"""A router that is asked to stop answers what it has begun, and only then lets go of what that needs."""

import asyncio
import functools
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp
import psycopg
import pytest

from chassis.lifecycle import Lifecycle
from chassis.pipe import PipeClient
from chassis.telemetry import Tracer
from cli.up.ports import pick_ports
from services.router import __main__ as router
from services.router import store_desk
from services.router.slot_batches import SlotBatches
from tests.unit.router.pair import Pair, rows
from tollbridge.router.v1 import router_pb2 as pb

LONG_S = 60.0
BLOCKED = (
    "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'tollbridge-router' AND wait_event_type = 'Lock'"
)


@pytest.fixture
def ports(pair: Pair, schema: str, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Where the router under test listens: for calls, and for who asks how it is. A busy machine makes nothing late."""
    ports = pick_ports(2)
    for name, value in {
        "DATABASE_URL": schema,
        "CONFIG_PATH": str(pair.path),
        "GRPC_BIND": f"127.0.0.1:{ports[0]}",
        "METRICS_BIND": f"127.0.0.1:{ports[1]}",
        "SERVICE_TOKENS": "edge:secret",
        "DRAIN_ANNOUNCE_S": "0",
    }.items():
        monkeypatch.setenv(f"TOLLBRIDGE_{name}", value)
    monkeypatch.setattr(router, "WAITING_GRACE_S", LONG_S)
    monkeypatch.setattr(store_desk, "SlotBatches", functools.partial(SlotBatches, longest_s=LONG_S))
    monkeypatch.setattr("chassis.db.STATEMENT_TIMEOUT_MS", int(LONG_S * 1000))
    monkeypatch.setattr("chassis.telemetry.configure_logging", lambda **_: None)  # the log of this process is pytest's
    return ports


@asynccontextmanager
async def client_of(port: int) -> AsyncIterator[PipeClient]:
    client = PipeClient(
        descriptor=pb.DESCRIPTOR.services_by_name["RouterService"],
        addresses=f"127.0.0.1:{port}",
        token="edge:secret",
        tracer=Tracer(service="test", replica="0", otlp_endpoint=""),
    )
    await client.start()
    try:
        yield client
    finally:
        await client.close()


async def decided(client: PipeClient) -> str:
    """The account of one more attempt."""
    request = pb.DecideRequest(
        request_id=str(uuid.uuid4()), attempt_id=str(uuid.uuid4()), spender=str(uuid.uuid4()), model="narrow"
    )
    return (await client.call("Decide", request, pb.DecideResponse, timeout_s=LONG_S)).provider_account_id


async def is_leaving(port: int) -> bool:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/readyz") as reply:
        return reply.status == 503


async def is_blocked(looking: psycopg.AsyncConnection) -> bool:
    return await (await looking.execute(BLOCKED)).fetchone() == (1,)


async def until(look: Callable[[], Awaitable[bool]]) -> None:
    while not await look():  # noqa: ASYNC110  what it looks at is in other processes, or says nothing by itself
        await asyncio.sleep(0.01)


async def test_who_waits_behind_a_batch_is_served_by_a_router_that_stops(
    pair: Pair, schema: str, ports: list[int]
) -> None:
    """It says that it is not ready, and keeps its database and its tasks until the last of them is answered."""
    life = Lifecycle()
    serving = asyncio.create_task(router.serve(life))
    async with client_of(ports[0]) as client, asyncio.timeout(LONG_S):
        await client.call("ListModels", pb.ListModelsRequest(), pb.ListModelsResponse, timeout_s=LONG_S)
        async with await psycopg.AsyncConnection.connect(schema) as other:
            await other.execute("SELECT FROM router.provider_accounts FOR UPDATE")
            first = asyncio.create_task(decided(client))
            async with await psycopg.AsyncConnection.connect(schema, autocommit=True) as looking:
                await until(functools.partial(is_blocked, looking))
            second = asyncio.create_task(decided(client))
            # Behind it on the same pipe: answered when the second waits for the next batch.
            await client.call("ListModels", pb.ListModelsRequest(), pb.ListModelsResponse, timeout_s=LONG_S)
            life.stopping.set()
            await until(functools.partial(is_leaving, ports[1]))
            for _ in range(10):  # whatever it closes too early it closes now
                assert await is_leaving(ports[1])
            assert {"slot-sweep", "shared-rests", "attempt-book"} <= {task.get_name() for task in asyncio.all_tasks()}
            assert not any(task.done() for task in (first, second, serving))
        assert {await first, await second} <= {"a1", "a2"}
        assert sum((await rows(pair)).values()) == 2
        await serving
