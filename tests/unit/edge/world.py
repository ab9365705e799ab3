"""A world for edge: it runs on loopback between its clients and the owners of `world_owners`, with a sandbox."""

import asyncio
import contextlib
import dataclasses
import functools
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import aiohttp
from prometheus_client import CollectorRegistry

from chassis.ids import uuid7
from chassis.pipe import PipeClient
from chassis.telemetry import Tracer
from services.edge.app import EdgeApp, new_fastapi
from services.edge.catalogue import Catalogue
from services.edge.config import without_file
from services.edge.http.hot import hot_routes
from services.edge.http.unread import UnreadRoom
from services.edge.http.uvicorn_server import HttpServer
from services.edge.idempotency.answers import Answers
from services.edge.idempotency.claims import Claims
from services.edge.idempotency.keyed_request import Idempotency
from services.edge.limits.limit_owner import LimitOwner
from services.edge.limits.limits import Limits
from services.edge.metrics import EdgeMetrics
from services.edge.owners import AuthOwner, BillingOwner, RouterOwner
from services.edge.paid.admission import Admission
from services.edge.paid.attempts import Attempts
from services.edge.paid.opening import Providers
from services.edge.paid.relay import Relay, Tools
from services.edge.spending.publisher import Publisher
from services.edge.spending.purse import Purse
from services.edge.spending.replay import Replay, end_spender, free_shares
from services.edge.spending.settlement import Settlement
from services.edge.spool.spool import Spool
from tests.unit.edge.claim_desk import Shelf
from tests.unit.edge.world_owners import KEY, Bus, Owners, Truth
from tollbridge.usage.v1 import usage_pb2
from upstream.client import UpstreamClient
from upstream.sandbox.provider import Sandbox


@dataclasses.dataclass
class World:
    """Everything a test looks at."""

    truth: Truth
    bus: Bus
    purse: Purse
    publisher: Publisher
    relay: Relay
    base_url: str
    session: aiohttp.ClientSession
    spool_dir: Path
    incarnation: UUID
    registry: CollectorRegistry
    clamps: list[bool]
    owners: Owners
    admission: Admission
    shelf: Shelf
    unread: UnreadRoom

    def body(self, directive: dict | None = None, **fields) -> dict:
        """A chat request whose message scripts the sandbox."""
        text = f"#sandbox {json.dumps(directive)}" if directive is not None else "Hello"
        return {"model": "fast", "messages": [{"role": "user", "content": text}], **fields}

    def post(self, body, *, key: str = KEY, path: str = "/chat/completions", **options):
        """Sends a request, of a chat unless `path` says otherwise."""
        headers = {"authorization": f"Bearer {key}", "content-type": "application/json", **options.pop("headers", {})}
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.session.post(f"{self.base_url}/v1{path}", data=data, headers=headers, **options)

    async def event_of(self, request_id: str) -> usage_pb2.UsageRecorded:
        """The event that billing applied for this request."""
        await until(lambda: request_id in self.truth.applied)
        return self.truth.applied[request_id]

    async def only_event(self) -> usage_pb2.UsageRecorded:
        """The one event that billing has applied."""
        await until(lambda: bool(self.truth.applied))
        assert len(self.truth.applied) == 1
        return next(iter(self.truth.applied.values()))

    async def settled(self) -> None:
        """Waits until nothing runs, nothing is held and nothing waits for billing."""
        await until(lambda: self.relay.in_flight == 0 and not self.truth.held and len(self.publisher) == 0)
        assert self.purse.open_count == 0


async def until(condition, *, within_s: float = 30.0) -> None:
    """Polls until the condition holds."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def edge_world(
    spool_dir: Path, *, truth: Truth | None = None, tracer: Tracer | None = None, spool_bytes: int = 1 << 26
) -> AsyncIterator[World]:
    """A running edge with its world around it."""
    truth = truth or Truth()
    owners, bus = Owners(truth), Bus(truth)
    address = await owners.server.start()
    tracer = tracer or Tracer(service="edge", replica="0", otlp_endpoint="")
    incarnation = uuid7()
    pipes = {
        name: PipeClient(descriptor=descriptor, addresses=address, token="edge:secret", tracer=tracer)
        for name, descriptor in owners.descriptors.items()
    }
    for pipe in pipes.values():
        await pipe.start()
    await until(lambda: all(pipe.reachable for pipe in pipes.values()))
    billing = BillingOwner(pipe=pipes["BillingService"], spender=incarnation)
    router = RouterOwner(pipe=pipes["RouterService"], spender=incarnation)
    spool = Spool.open(
        spool_dir, incarnation=incarnation, sync="group", max_bytes=spool_bytes, loop=asyncio.get_running_loop()
    )
    purse = Purse(billing=billing, spender=incarnation)
    publisher = Publisher(bus=bus, billing=billing, forget=spool.forget, confirmed=purse.confirmed, source="/edge/0")
    registry, clamps = CollectorRegistry(), [True]
    client = UpstreamClient()
    await client.start()
    attempts, shelf = Attempts(router=router), Shelf()
    claims = Claims(pipe=pipes["ClaimService"], spender=incarnation)
    settlement = Settlement(spool=spool, purse=purse, outbox=publisher)
    limit_owner = LimitOwner(pipe=pipes["AuthService"], spender=incarnation)
    limits = Limits(keeper=limit_owner)
    tools = Tools(
        admission=Admission(
            auth=AuthOwner(pipe=pipes["AuthService"]), purse=purse, tracer=tracer, clamps_short_credit=lambda: clamps[0]
        ),
        limits=limits,
        router=router,
        attempts=attempts,
        settlement=settlement,
        idempotency=Idempotency(claims=claims, answers=Answers(store=shelf), adopter=settlement),
        providers=Providers(client=client, sandbox=Sandbox()),
        catalogue=Catalogue(router=pipes["RouterService"]),
        metrics=EdgeMetrics(registry=registry),
        tracer=tracer,
    )
    relay = Relay(tools=tools)
    app = EdgeApp(
        config=without_file(),
        public=new_fastapi(),
        own=new_fastapi(),
        hot=hot_routes(relay),
        tracer=tracer,
        bodies=relay.bodies,
        door=relay.door,
    )
    server = HttpServer(app=app, bind="127.0.0.1:0", grace_s=5)
    replay = Replay(
        directory=spool_dir,
        own=incarnation,
        outbox=publisher,
        free_shares=functools.partial(free_shares, router=router, limits=limit_owner),
        end_spender=functools.partial(end_spender, billing=billing, claims=claims),
    )
    loops = (replay.run(), publisher.run(), purse.run(), attempts.run(), limits.run(), relay.awake.run())
    tasks = [asyncio.create_task(run) for run in (*loops, server.serve())]
    session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30))
    world = World(
        truth=truth,
        bus=bus,
        purse=purse,
        publisher=publisher,
        relay=relay,
        base_url=f"http://{server.address}",
        session=session,
        spool_dir=spool_dir,
        incarnation=incarnation,
        registry=registry,
        clamps=clamps,
        owners=owners,
        admission=tools.admission,
        shelf=shelf,
        unread=server.unread,
    )
    try:
        yield world
    finally:
        await session.close()
        server.stop()
        await asyncio.wait(tasks[-1:], timeout=10)
        await relay.drain(grace_s=1)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        spool.close()
        await client.close()
        for pipe in pipes.values():
            await pipe.close()
        await owners.server.stop(0)
