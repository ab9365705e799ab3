"""auth's gRPC face: rights, refusals and numbers."""

import dataclasses
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from chassis.config import ConfigText
from chassis.errors import Code
from chassis.pipe import PipeClient
from chassis.telemetry import Tracer
from services.auth.limits import Limits
from tests.unit.auth.replica import TOKENS, Replica, refused
from tollbridge.auth.v1 import auth_pb2 as pb


@pytest.mark.parametrize(
    ("method", "request_", "kind", "code"),
    [
        ("CreateCustomer", pb.CreateCustomerRequest(name="n"), pb.CreateCustomerResponse, Code.INVALID_REQUEST),
        (
            "CreateCustomer",
            pb.CreateCustomerRequest(request_id="x1"),
            pb.CreateCustomerResponse,
            Code.INVALID_REQUEST,
        ),
        (
            "CreateCustomer",
            pb.CreateCustomerRequest(request_id="x2", name="n", plan="none"),
            pb.CreateCustomerResponse,
            Code.INVALID_REQUEST,
        ),
        (
            "CreateKey",
            pb.CreateKeyRequest(request_id="x3", customer_id=str(uuid.uuid4())),
            pb.CreateKeyResponse,
            Code.NOT_FOUND,
        ),
        (
            "CreateKey",
            pb.CreateKeyRequest(request_id="x4", customer_id="me"),
            pb.CreateKeyResponse,
            Code.INVALID_REQUEST,
        ),
        (
            "CreateKey",
            pb.CreateKeyRequest(request_id="x5", allowed_ips=["nowhere"]),
            pb.CreateKeyResponse,
            Code.INVALID_REQUEST,
        ),
        (
            "CreateKey",
            pb.CreateKeyRequest(request_id="x6", limits=pb.Limits(concurrent=-1)),
            pb.CreateKeyResponse,
            Code.INVALID_REQUEST,
        ),
        ("ListKeys", pb.ListKeysRequest(limit=201), pb.ListKeysResponse, Code.INVALID_REQUEST),
    ],
)
async def test_what_can_not_be_is_refused_with_its_code(replica: Replica, method: str, request_, kind, code: Code):
    """Never as an internal error."""
    assert await refused(replica.call(method, request_, kind)) is code


@asynccontextmanager
async def pipe_of(replica: Replica, caller: str) -> AsyncIterator[PipeClient]:
    """A Pipe that this caller opened."""
    client = PipeClient(
        descriptor=pb.DESCRIPTOR.services_by_name["AuthService"],
        addresses=replica.address,
        token=f"{caller}:{TOKENS[caller]}",
        tracer=Tracer(service="test", replica="0", otlp_endpoint=""),
    )
    await client.start()
    try:
        yield client
    finally:
        await client.close()


@pytest.mark.parametrize(
    ("caller", "may_ask", "may_make"),
    [
        ("edge", True, True),
        ("cli", False, True),
        ("tasks", True, False),
        ("teams", True, False),
        ("billing", False, False),
        ("stranger", False, False),
    ],
)
async def test_each_method_has_its_callers(replica: Replica, caller: str, may_ask: bool, may_make: bool):
    """A token of ours opens what lists its name and nothing else, by a call of its own and through the Pipe."""
    ask, make = pb.AuthorizeRequest(api_key="x"), pb.CreateKeyRequest()
    asked = Code.INVALID_API_KEY if may_ask else Code.PERMISSION_DENIED
    made = Code.INVALID_REQUEST if may_make else Code.PERMISSION_DENIED
    assert await refused(replica.call("Authorize", ask, pb.AuthorizeResponse, caller=caller)) is asked
    assert await refused(replica.call("CreateKey", make, pb.CreateKeyResponse, caller=caller)) is made
    async with pipe_of(replica, caller) as pipe:
        assert await refused(pipe.call("Authorize", ask, pb.AuthorizeResponse, timeout_s=30)) is asked
        assert await refused(pipe.call("CreateKey", make, pb.CreateKeyResponse, timeout_s=30)) is made


async def test_a_replica_shows_its_numbers(replica: Replica):
    """Asked and looked up, so that the share of kept answers can be read."""
    customer = await replica.new_customer()
    made = await replica.new_key(customer_id=customer.id)
    for _ in range(3):
        await replica.authorize(made.secret)
    samples = {s.name: s.value for metric in replica.parts.collector().collect() for s in metric.samples}
    assert samples["tollbridge_auth_keys_asked_total"] > samples["tollbridge_auth_look_ups_total"] > 0


async def test_a_key_has_its_own_limits_besides_those_that_its_customers_keys_share(replica: Replica):
    """It says nothing of them where there are none."""
    former = replica.parts.running_config()
    shared = Limits(requests_per_minute=10, concurrent=5, scope="customer")
    customer = await replica.new_customer()
    config = dataclasses.replace(former, plans={"team": shared}, default_plan="team")
    await replica.parts.apply(config, ConfigText(path=Path(), hash="", data={}, lines={}))
    try:
        limited = await replica.new_key(customer_id=customer.id, limits=pb.Limits(requests_per_minute=3, concurrent=9))
        free = await replica.new_key(customer_id=customer.id)
        found = await replica.authorize(limited.secret)
        other = await replica.authorize(free.secret)
    finally:
        await replica.parts.apply(former, ConfigText(path=Path(), hash="", data={}, lines={}))
    assert found.limits == other.limits == pb.Limits(requests_per_minute=10, concurrent=5, scope="customer")
    assert found.own_limits == pb.Limits(requests_per_minute=3, scope="key")
    assert not other.HasField("own_limits")
