"""Asking every replica of a service: each answers for itself."""

import asyncio
import time

from chassis.pipe import PipeClient
from services.edge.admin.ask_every import ask_every
from tests.unit.chassis.pipe_rig import Gate, client, eventually, named, server
from tollbridge.auth.v1 import auth_pb2


async def names(pipe: PipeClient, *, timeout_s: float = 10) -> dict[str, str | None]:
    """Which replica answered, by its address."""
    request = auth_pb2.GetCustomerRequest(customer_id="c")
    found = await ask_every(pipe, "GetCustomer", request, auth_pb2.GetCustomerResponse, timeout_s=timeout_s)
    return {target: None if reply is None else reply.customer.name for target, reply in found.items()}


async def test_every_replica_answers_for_itself() -> None:
    """Also one that drains, and one whose stream is down: nobody answers in its place."""
    one, two = server(named("a")), server(named("b"))
    first, second = await one.start(), await two.start()
    pipe = await client(first, second, "127.0.0.1:1")
    await eventually(lambda: len(pipe._choice) == 2)
    assert await names(pipe) == {first: "a", second: "b", "127.0.0.1:1": None}
    await two.stop(0)
    assert await names(pipe) == {first: "a", second: None, "127.0.0.1:1": None}
    await pipe.close()
    await one.stop(0)


async def test_a_replica_that_hangs_costs_the_others_nothing_but_the_timeout() -> None:
    """It is None; whoever stops asking leaves nothing behind."""
    gate = Gate("slow")
    slow, well = server(gate.run), server(named("b"))
    addresses = await slow.start(), await well.start()
    pipe = await client(*addresses)
    begun = time.monotonic()
    assert await names(pipe, timeout_s=0.3) == {addresses[0]: None, addresses[1]: "b"}
    assert time.monotonic() - begun < 20
    asking = asyncio.create_task(names(pipe))
    await eventually(lambda: gate.entered == 2)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    assert asking.cancelled()
    gate.open.set()
    await pipe.close()
    await slow.stop(0)
    await well.stop(0)


async def test_a_service_without_replicas_answers_nothing() -> None:
    """A client that has ended, or never found one."""
    pipe = await client("127.0.0.1:1")
    await pipe.close()
    assert await names(pipe) == {}
