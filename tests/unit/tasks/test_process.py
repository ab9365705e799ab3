"""tasks as processes on real PostgreSQL and NATS: an image from order to file, over the death of its worker."""

import asyncio
import contextlib
import os
import signal
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import grpc
import msgspec
import pytest
import structlog

from chassis import ids
from chassis.bus import Bus, ConsumerSpec, Delivery
from chassis.pipe import PipeClient
from chassis.streams import StreamSpec
from chassis.telemetry import Tracer
from cli.schema import migrate
from cli.up.ports import pick_ports
from services.tasks.events import RUN_IMAGE
from tests.unit.tasks.stage import CHARGE_PER_IMAGE, FakeBilling, FakeRouter, rpc_server
from tollbridge.tasks.v1 import tasks_pb2 as pb
from tollbridge.usage.v1 import usage_pb2

USAGE = StreamSpec(
    name="USAGE",
    subjects=("tollbridge.usage.v1.recorded",),
    retention="limits",
    max_age_s=3600,
    max_bytes=1 << 24,
)


QUICK = """
import runpy
from services.tasks import jobs
jobs.LEASE_S, jobs.HEARTBEAT_S = 2.0, 0.3
runpy.run_module("services.tasks", run_name="__main__")
"""
"""A process whose claims soon lapse."""


class Ledger:
    """What billing would have received."""

    def __init__(self, billing: FakeBilling) -> None:
        self.billing = billing
        self.records: dict[tuple[str, int], usage_pb2.UsageRecorded] = {}

    async def apply(self, deliveries: list[Delivery]) -> None:
        for delivery in deliveries:
            for record in usage_pb2.UsageBatch.FromString(delivery.data).events:
                self.records[record.request_id, record.kind] = record
                self.billing.known.add((record.request_id, record.kind))
            await delivery.ack()


class World:
    """Everything around the tasks processes, and the means to start and kill some."""

    def __init__(self, *, environ: dict[str, str], router: FakeRouter, billing: FakeBilling, ledger: Ledger) -> None:
        self._environ = environ
        self.router = router
        self.billing = billing
        self.ledger = ledger
        self.customer_id = str(uuid.uuid4())
        self._running: list[asyncio.subprocess.Process] = []

    async def start(
        self, *, role: str, program: tuple[str, ...] = ("-m", "services.tasks")
    ) -> tuple[asyncio.subprocess.Process, str]:
        address = f"127.0.0.1:{pick_ports(1)[0]}"
        environ = {**self._environ, "TOLLBRIDGE_GRPC_BIND": address, "TOLLBRIDGE_ROLE": role}
        process = await asyncio.create_subprocess_exec(sys.executable, *program, env=environ)
        self._running.append(process)
        return process, address

    async def stop(self) -> None:
        for process in self._running:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(process.wait(), 20) in (0, -signal.SIGKILL)


@pytest.fixture
async def world(postgres_url: str, nats_url: str) -> AsyncIterator[World]:
    await asyncio.to_thread(migrate, postgres_url, service="tasks")
    router, billing = FakeRouter(), FakeBilling()
    neighbours = rpc_server([router.service(), billing.service()], {"tasks": "secret"})
    address = await neighbours.start()
    ledger = Ledger(billing)
    bus = await Bus.connect(nats_url, name="test", log=structlog.get_logger())
    await bus.ensure_stream(USAGE)
    spec = ConsumerSpec(stream="USAGE", durable="test", subject=USAGE.subjects[0], max_ack_pending=100, ack_wait_s=30)
    consuming = asyncio.create_task(bus.consume(spec, ledger.apply))
    environ = {
        **os.environ,
        "TOLLBRIDGE_DATABASE_URL": postgres_url,
        "TOLLBRIDGE_NATS_URL": nats_url,
        "TOLLBRIDGE_DRAIN_GRACE_S": "0.2",
        "TOLLBRIDGE_SERVICE_TOKENS": "edge:secret",
        "TOLLBRIDGE_SERVICE_TOKEN": "tasks:secret",
        "TOLLBRIDGE_ROUTER_ADDRESSES": address,
        "TOLLBRIDGE_BILLING_ADDRESSES": address,
    }
    made = World(environ=environ, router=router, billing=billing, ledger=ledger)
    yield made
    await made.stop()
    consuming.cancel()
    await asyncio.gather(consuming, return_exceptions=True)
    await bus.close()
    await neighbours.stop(0)


@asynccontextmanager
async def client_of(address: str) -> AsyncIterator[PipeClient]:
    client = PipeClient(
        descriptor=pb.DESCRIPTOR.services_by_name["TasksService"],
        addresses=address,
        token="edge:secret",
        tracer=Tracer(service="test", replica="0", otlp_endpoint=""),
    )
    await client.start()
    yield client
    await client.close()


async def create(client: PipeClient, *, customer_id: str, prompt: str, n: int = 1) -> pb.Task:
    request = pb.CreateTaskRequest(
        task_id=str(ids.uuid7()),
        customer_id=customer_id,
        kind="image",
        model="dall-e-3",
        body=msgspec.json.encode({"prompt": prompt, "n": n}),
    )
    return (await client.call("CreateTask", request, pb.CreateTaskResponse, timeout_s=30)).task


async def get(client: PipeClient, task_id: str, *, wait_s: float = 0.0) -> pb.Task:
    request = pb.GetTaskRequest(task_id=task_id, wait_s=wait_s)
    return (await client.call("GetTask", request, pb.GetTaskResponse, timeout_s=wait_s + 5)).task


async def until(holds: Callable[[], bool], *, within_s: float = 15.0) -> None:
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, "it never came"
        await asyncio.sleep(0.05)


async def test_an_image_is_made_kept_and_charged(world: World):
    """From the call to the file in the object store and the record in billing's stream."""
    _, address = await world.start(role="both")
    async with client_of(address) as client:
        task = await create(client, customer_id=world.customer_id, prompt="a bridge", n=2)
        done = await get(client, task.id, wait_s=30)
        assert done.status == pb.TASK_STATUS_SUCCEEDED
    async with grpc.aio.insecure_channel(address) as channel:
        run = channel.unary_stream(
            "/tollbridge.tasks.v1.TasksService/GetResult",
            request_serializer=pb.GetResultRequest.SerializeToString,
            response_deserializer=pb.GetResultResponse.FromString,
        )
        request = pb.GetResultRequest(file_id=done.results[1].file_id, customer_id=world.customer_id)
        pieces = [p async for p in run(request, metadata=(("authorization", "edge:secret"),), timeout=10)]
    data = b"".join(piece.data for piece in pieces)
    assert data.startswith(b"\x89PNG")
    assert len(data) == done.results[1].bytes
    await until(lambda: (task.id, usage_pb2.USAGE_KIND_CHARGE) in world.ledger.records)
    record = world.ledger.records[task.id, usage_pb2.USAGE_KIND_CHARGE]
    assert record.charge_nano_usd == 2 * CHARGE_PER_IMAGE == done.charge_nano_usd
    assert record.hold_id in world.billing.holds


async def test_work_orders_that_come_ten_times_do_no_harm(world: World, nats_url: str):
    """They only wake: ten jobs are made once each and charged once each."""
    _, address = await world.start(role="both")
    bus = await Bus.connect(nats_url, name="doubler", log=structlog.get_logger())
    async with client_of(address) as client:
        tasks = [await create(client, customer_id=world.customer_id, prompt="a bridge") for _ in range(10)]
        for task in tasks:
            order = pb.WorkOrder(task_id=task.id).SerializeToString()
            for _ in range(10):
                await bus.publish(RUN_IMAGE, order, event_id=str(uuid.uuid4()), event_type="o", source="test")
        ended = [await get(client, task.id, wait_s=30) for task in tasks]
    await bus.close()
    assert {task.status for task in ended} == {pb.TASK_STATUS_SUCCEEDED}
    charges = {(task.id, usage_pb2.USAGE_KIND_CHARGE) for task in tasks}
    await until(lambda: charges <= world.ledger.records.keys(), within_s=30)
    assert len(world.router.decided) == len(tasks)


async def test_a_worker_that_stops_hands_its_job_over_and_it_is_charged_once(world: World):
    """The api answers on while one worker leaves and the next takes up what it left."""
    _, address = await world.start(role="api")
    first, _ = await world.start(role="worker")
    async with client_of(address) as client:
        prompt = 'x\n#sandbox {"first_byte_ms": 3000}'
        task = await create(client, customer_id=world.customer_id, prompt=prompt)
        for _ in range(300):
            if (await get(client, task.id)).status == pb.TASK_STATUS_RUNNING:
                break
            await asyncio.sleep(0.05)
        first.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(first.wait(), 20) == 0
        assert (await get(client, task.id)).status == pb.TASK_STATUS_PENDING
        await world.start(role="worker")
        done = await get(client, task.id, wait_s=30)
        assert done.status == pb.TASK_STATUS_SUCCEEDED
    await until(lambda: (task.id, usage_pb2.USAGE_KIND_CHARGE) in world.ledger.records)
    assert [kind for request, kind in world.ledger.records if request == task.id] == [usage_pb2.USAGE_KIND_CHARGE]


async def test_a_worker_killed_in_the_middle_of_painting_loses_its_job_to_another_and_it_is_charged_once(
    world: World,
):
    """kill -9: nothing is given back. Once its lease is over, another process finds the job and ends it."""
    _, address = await world.start(role="api")
    quick = ("-c", QUICK)
    first, _ = await world.start(role="worker", program=quick)
    async with client_of(address) as client:
        prompt = 'x\n#sandbox {"first_byte_ms": 2000}'
        task = await create(client, customer_id=world.customer_id, prompt=prompt)
        for _ in range(300):
            if (await get(client, task.id)).status == pb.TASK_STATUS_RUNNING:
                break
            await asyncio.sleep(0.05)
        first.kill()
        assert await asyncio.wait_for(first.wait(), 20) == -signal.SIGKILL
        assert (await get(client, task.id)).status == pb.TASK_STATUS_RUNNING
        await world.start(role="worker", program=quick)
        done = await get(client, task.id, wait_s=30)
        assert done.status == pb.TASK_STATUS_SUCCEEDED
    await until(lambda: (task.id, usage_pb2.USAGE_KIND_CHARGE) in world.ledger.records)
    assert [kind for request, kind in world.ledger.records if request == task.id] == [usage_pb2.USAGE_KIND_CHARGE]
    assert world.ledger.records[task.id, usage_pb2.USAGE_KIND_CHARGE].charge_nano_usd == CHARGE_PER_IMAGE
