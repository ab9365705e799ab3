"""Each service is a user of its own at NATS: it can do all that it does, and nothing that another does."""

import asyncio
import contextlib
import os
import re
import signal
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from types import ModuleType

import nats
import pytest
import structlog
from nats.aio.client import Client

from chassis.bucket import Bucket
from chassis.bus import Bus, Delivery
from chassis.bus_link import inbox_of
from chassis.errors import TollbridgeError
from chassis.pipe import PipeClient
from chassis.telemetry import Tracer
from chassis.tls import Certificates
from cli.bus_users import ON_THE_BUS, config, users
from cli.replay import _read
from cli.schema import migrate
from cli.up.ports import pick_ports
from services.auth import events as auth
from services.billing import events as billing
from services.edge import events as edge
from services.tasks import events as tasks
from services.tasks.files.sliced_store import SlicedBucket
from tests.conftest import RunningServer
from tests.integration.deployed import NATS as DEPLOYED
from tests.integration.deployed import DeployedNats, with_certificates
from tests.unit.chassis.authority import Authority
from tollbridge.auth.v1 import auth_pb2 as pb

ROOT = Path(__file__).resolve().parents[2]
SERVICES: dict[str, ModuleType] = {"auth": auth, "billing": billing, "edge": edge, "tasks": tasks}
PATIENCE_S = 30


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeployedNats]:
    """It runs."""
    folder = tmp_path_factory.mktemp("nats")
    server = DeployedNats(directory=folder, port=pick_ports(1)[0])
    running = RunningServer(server=server, log_path=folder / "log")
    running.start()
    yield server
    running.stop()


@contextlib.asynccontextmanager
async def bus_of(server: DeployedNats, name: str, **more: object) -> AsyncIterator[Bus]:
    """A service's own bus."""
    bus = await Bus.connect(server.url_of(name), name=name, log=structlog.get_logger(), **more)
    await until(lambda: bus.connected)
    try:
        yield bus
    finally:
        await bus.close()


@contextlib.asynccontextmanager
async def running(work: Awaitable[None]) -> AsyncIterator[None]:
    """A loop of a service, meanwhile."""
    task = asyncio.ensure_future(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not true():  # noqa: ASYNC110  a test polls with a deadline
            await asyncio.sleep(0.01)


async def send(bus: Bus, subject: str) -> None:
    await bus.publish(subject, b"it", event_id=subject, event_type="t", source="s", timeout_s=PATIENCE_S)


def test_the_deployed_users_are_what_the_services_say() -> None:
    """Who changes an events.py makes the file anew."""
    assert (DEPLOYED / "users.conf").read_text() == config(users())


@pytest.mark.parametrize("name", [name for name, events in SERVICES.items() if getattr(events, "CONSUMES", ())])
async def test_a_service_is_given_what_its_durables_are_for(deployed: DeployedNats, name: str) -> None:
    """It makes its streams and durables, publishes, gets, acknowledges and counts."""
    events, got = SERVICES[name], []

    async def take(deliveries: list[Delivery]) -> None:
        for delivery in deliveries:
            await delivery.in_progress()
            await delivery.nak(0.01) if delivery.deliveries == 1 else await delivery.ack()
            got.append((delivery.subject, delivery.deliveries))

    publisher = "edge" if name == "billing" else name
    async with bus_of(deployed, name) as bus, bus_of(deployed, publisher) as sender:
        for spec in events.STREAMS:
            await bus.ensure_stream(spec)
        for consumer in events.CONSUMES:
            async with running(bus.consume(consumer, take)):
                await send(sender, consumer.subject)
                await until(lambda wanted=(consumer.subject, 2): wanted in got)
            async with asyncio.timeout(PATIENCE_S):  # the server takes acks in its own time
                while await bus.lag(consumer):  # noqa: ASYNC110  a test polls with a deadline
                    await asyncio.sleep(0.01)


@pytest.mark.parametrize("name", SERVICES)
async def test_a_service_publishes_and_hears_what_it_says(deployed: DeployedNats, name: str) -> None:
    """What a stream keeps is stored; what none keeps reaches those who listen for it."""
    events = SERVICES[name]
    specs = [spec for each in SERVICES.values() for spec in getattr(each, "STREAMS", ())]
    kept = [pattern.removesuffix(">") for spec in specs for pattern in spec.subjects]
    async with bus_of(deployed, "billing") as billing_bus, bus_of(deployed, "tasks") as tasks_bus:
        await billing.ensure_streams(billing_bus)
        await tasks_bus.ensure_stream(tasks.TASKS)
        async with bus_of(deployed, name) as bus:
            for subject in events.PUBLISHES:
                if any(subject.startswith(each) for each in kept):
                    await send(bus, subject.replace("*", "customer"))
                    continue
                for hearer in [who for who, each in SERVICES.items() if subject in getattr(each, "LISTENS", ())]:
                    await heard(deployed, bus, subject, hearer)


async def heard(deployed: DeployedNats, bus: Bus, subject: str, hearer: str) -> None:
    came = asyncio.Event()

    async def take(_: bytes) -> None:
        came.set()

    async with bus_of(deployed, hearer) as listener, running(listener.listen(subject, take)):
        async with asyncio.timeout(PATIENCE_S):
            while not came.is_set():
                await bus.announce(subject, b"it")
                await asyncio.sleep(0.02)


@pytest.mark.parametrize("name", ["edge", "tasks"])
async def test_a_service_keeps_and_reads_its_objects(deployed: DeployedNats, name: str) -> None:
    """Written, replaced, read whole and in parts, removed."""
    kind = SlicedBucket if name == "tasks" else Bucket
    (bucket_name,) = SERVICES[name].BUCKETS
    bucket = kind(
        url=deployed.url_of(name), name=bucket_name, client=name, max_age_s=3600, transfer_timeout_s=PATIENCE_S
    )
    try:
        await bucket.put("it", b"1" * 300_000)
        await bucket.put("it", b"2" * 300_000)
        if isinstance(bucket, SlicedBucket):
            assert await bucket.part("it", start=200_000, length=2) == b"22"
        else:
            assert await bucket.get("it") == b"2" * 300_000
        await bucket.delete("it")
        assert await bucket.get("it") is None
    finally:
        await bucket.close()


async def test_the_proof_reads_the_streams(deployed: DeployedNats) -> None:
    """As its own user, which can't take what billing is to be given."""
    async with bus_of(deployed, "billing") as bus:
        await billing.ensure_streams(bus)
        await until(lambda: bus._present >= {"USAGE", "LEDGER"})
        await send(bus, billing.LEDGER_TRANSFERRED)
    assert (await _read(deployed.url_of("proof"))).made_us
    taking = f"$JS.API.CONSUMER.MSG.NEXT.USAGE.{billing.APPLY_USAGE.durable}"
    assert await denied(deployed, "proof", lambda client: client.publish(taking, b""))


FOREIGN = {
    "another's event": lambda client, mine: client.publish(other_subject(mine), b""),
    "everybody's answers": lambda client, mine: client.subscribe("_INBOX.>"),
    "another's answers": lambda client, mine: client.subscribe("_INBOX.other.>"),
    "every event": lambda client, mine: client.subscribe("tollbridge.>"),
    "a consumer of its own": lambda client, mine: client.publish("$JS.API.CONSUMER.CREATE.LEDGER", b"{}"),
    "the end of a stream": lambda client, mine: client.publish("$JS.API.STREAM.DELETE.USAGE", b""),
    "an empty stream": lambda client, mine: client.publish("$JS.API.STREAM.PURGE.USAGE", b""),
    "the list of durables": lambda client, mine: client.publish("$JS.API.CONSUMER.LIST.USAGE", b""),
}


def other_subject(mine: str) -> str:
    """What this service never publishes and another does."""
    own = set(SERVICES[mine].PUBLISHES)
    return next(each for events in SERVICES.values() for each in events.PUBLISHES if each not in own)


@pytest.mark.parametrize("what", FOREIGN)
@pytest.mark.parametrize("name", ON_THE_BUS)
async def test_a_service_can_do_nothing_of_anothers(deployed: DeployedNats, name: str, what: str) -> None:
    """Whoever takes one service over has its part of the bus and no more."""
    assert await denied(deployed, name, lambda client: FOREIGN[what](client, name))


async def denied(deployed: DeployedNats, name: str, attempt: Callable[[Client], Awaitable[object]]) -> bool:
    """Whether the server says that this user may not."""
    errors: list[str] = []

    async def note(error: Exception) -> None:
        errors.append(str(error).lower())

    url = deployed.url_of(name)
    client = await nats.connect(url, error_cb=note, inbox_prefix=inbox_of(url), connect_timeout=PATIENCE_S)
    try:
        await attempt(client)
        await client.flush(PATIENCE_S)
        await until(lambda: any("permissions violation" in error for error in errors))
        return True
    finally:
        await client.close()


async def test_the_bus_is_reached_with_certificates(tmp_path: Path) -> None:
    """A server that asks for certificates gets ours, and those of now at each connection."""
    authority = Authority()
    own = authority.folder(tmp_path / "nats", "localhost")
    server = DeployedNats(directory=tmp_path / "server", port=pick_ports(1)[0], more=with_certificates(own))
    process = RunningServer(server=server, log_path=tmp_path / "log")
    process.start()
    try:
        folder = authority.folder(tmp_path / "auth", "auth")
        async with bus_of(server, "auth", tls=Certificates(folder)) as bus:
            authority.folder(folder, "auth")
            process.kill()
            await until(lambda: not bus.connected)
            process.start()
            await until(lambda: bus.connected)
            await bus.announce(auth.KEYS_CHANGED, b"")
    finally:
        process.stop()


@contextlib.asynccontextmanager
async def auth_process(**environ: str) -> AsyncIterator[str]:
    """A real one; its address."""
    address = f"127.0.0.1:{pick_ports(1)[0]}"
    told = {**os.environ, "TOLLBRIDGE_GRPC_BIND": address, "TOLLBRIDGE_KEY_PEPPERS": "1:" + "7c" * 32, **environ}
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "services.auth", env=told)
    try:
        yield address
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), PATIENCE_S) == 0


async def test_a_process_is_who_its_certificate_says(deployed: DeployedNats, postgres_url: str, tmp_path: Path) -> None:
    """With nothing but settings, and without any secret: auth lets edge in over TLS, and tells the bus what changed."""
    await asyncio.to_thread(migrate, postgres_url, service="auth")
    (tmp_path / "tollbridge.yaml").write_text("plans: [{id: free}]\nbilling: {default_plan: free}\n")
    authority, told = Authority(), asyncio.Event()
    own, edges, others = (authority.folder(tmp_path / name, name) for name in ("auth", "edge", "other"))
    process = auth_process(
        TOLLBRIDGE_DATABASE_URL=postgres_url,
        TOLLBRIDGE_NATS_URL=deployed.url_of("auth"),
        TOLLBRIDGE_CONFIG_PATH=str(tmp_path / "tollbridge.yaml"),
        TOLLBRIDGE_SERVICE_TOKENS="edge",
        TOLLBRIDGE_TLS_DIR=str(own),
    )

    async def hear(_: bytes) -> None:
        told.set()

    async with process as address, bus_of(deployed, "edge") as bus, running(bus.listen(auth.KEYS_CHANGED, hear)):
        async with edge_asking(address, edges) as client:
            new = pb.CreateCustomerRequest(request_id=str(uuid.uuid4()), name="Somebody")
            made = await client.call("CreateCustomer", new, pb.CreateCustomerResponse, timeout_s=PATIENCE_S)
            key = pb.CreateKeyRequest(request_id=str(uuid.uuid4()), customer_id=made.customer.id)
            added = await client.call("CreateKey", key, pb.CreateKeyResponse, timeout_s=PATIENCE_S)
            gone = pb.RevokeKeyRequest(request_id=str(uuid.uuid4()), key_id=added.key.id)
            await client.call("RevokeKey", gone, pb.RevokeKeyResponse, timeout_s=PATIENCE_S)
            await asyncio.wait_for(told.wait(), PATIENCE_S)
        async with edge_asking(address, others) as client:
            with pytest.raises(TollbridgeError):
                await client.call("CreateKey", key, pb.CreateKeyResponse, timeout_s=0.5)


@contextlib.asynccontextmanager
async def edge_asking(address: str, folder: Path) -> AsyncIterator[PipeClient]:
    """Who says that it is edge and shows the folder's certificate."""
    service = pb.DESCRIPTOR.services_by_name["AuthService"]
    tracer = Tracer(service="test", replica="0", otlp_endpoint="")
    tls = Certificates(folder)
    client = PipeClient(descriptor=service, addresses=address, token="edge", tracer=tracer, tls=tls)
    await client.start()
    try:
        yield client
    finally:
        await client.close()


def test_what_the_services_do_on_the_bus_is_declared() -> None:
    """A subject or a durable that is used somewhere and not declared would be refused only where users are."""
    uses = {"PUBLISHES": r"\b(?:publish|announce)", "LISTENS": r"\blisten", "CONSUMES": r"\b(?:consume|lag)"}
    for name, events in SERVICES.items():
        source = "".join(path.read_text() for path in (ROOT / "services" / name).rglob("*.py"))
        for declared, call in uses.items():
            for constant in re.findall(call + r"[(,]\s*events\.([A-Z_]+)\b(?!\[)", source):
                assert getattr(events, constant) in getattr(events, declared, ()), (name, constant)
