"""A tasks process on a real PostgreSQL, with router and billing as real gRPC servers."""

import asyncio
from collections.abc import AsyncIterator, Callable

import grpc
import pytest

from chassis import db
from chassis.pipe import PipeClient
from chassis.telemetry import Tracer
from cli.schema import migrate
from services.tasks import jobs
from tests.patience import promised
from tests.unit.tasks.stage import FakeBilling, FakeRouter, TasksApi, TasksProcess, rpc_server
from tollbridge.billing.v1 import billing_pb2
from tollbridge.router.v1 import router_pb2
from upstream.client import UpstreamClient


@pytest.fixture(scope="module")
async def tasks_database(postgres_url: str) -> str:
    await asyncio.to_thread(migrate, postgres_url, service="tasks")
    return postgres_url


@pytest.fixture
async def new_process(tasks_database: str) -> AsyncIterator[Callable[[], TasksProcess]]:
    """Makes processes that share a database, a router and a billing."""
    fakes = (FakeRouter(), FakeBilling())
    server = rpc_server([fakes[0].service(), fakes[1].service()], {"tasks": "secret"})
    address = await server.start()
    tracer = Tracer(service="test", replica="0", otlp_endpoint="")
    files = (router_pb2.DESCRIPTOR, "RouterService"), (billing_pb2.DESCRIPTOR, "BillingService")
    pipes = [
        PipeClient(descriptor=file.services_by_name[name], addresses=address, token="tasks:secret", tracer=tracer)
        for file, name in files
    ]
    for pipe in pipes:
        await pipe.start()
    pool = await db.open_pool(tasks_database, role="tasks")
    pool.timeout = promised(pool.timeout)
    await db.wait_for_schema(pool, service="tasks", timeout_s=10)
    made: list[TasksProcess] = []

    def make() -> TasksProcess:
        made.append(TasksProcess(pool=pool, pipes=(pipes[0], pipes[1]), fakes=fakes))
        return made[-1]

    yield make
    for process in made:
        await process.routing.close()
    async with db.transaction(pool) as conn:
        await conn.execute("DELETE FROM tasks.outbox")
        await conn.execute("DELETE FROM tasks.results")
        await conn.execute("DELETE FROM tasks.webhooks")
        await conn.execute("DELETE FROM tasks.tasks")
        await conn.execute("DELETE FROM tasks.turns")
        await conn.execute("DELETE FROM tasks.storage")
        await conn.execute("DELETE FROM tasks.leftovers")
    for pipe in pipes:
        await pipe.close()
    await pool.close()
    await server.stop(0)


@pytest.fixture
async def process(new_process: Callable[[], TasksProcess]) -> TasksProcess:
    return new_process()


@pytest.fixture
async def api(process: TasksProcess) -> AsyncIterator[TasksApi]:
    server = rpc_server([process.server.service()], {"edge": "edge", "router": "router"})
    channel = grpc.aio.insecure_channel(await server.start())
    yield TasksApi(process, channel)
    await channel.close()
    await server.stop(0)


@pytest.fixture
def quick_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases and heartbeats of tenths of a second."""
    monkeypatch.setattr(jobs, "LEASE_S", 0.3)
    monkeypatch.setattr(jobs, "HEARTBEAT_S", 0.05)


@pytest.fixture
async def client() -> AsyncIterator[UpstreamClient]:
    """What speaks to providers over HTTP."""
    running = UpstreamClient()
    await running.start()
    yield running
    await running.close()
