"""auth as processes: two replicas on one database, with a bus that comes and goes."""

import asyncio
import contextlib
import os
import signal
import sys
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from chassis.errors import Code, TollbridgeError
from chassis.pipe import PipeClient
from chassis.telemetry import Tracer
from cli.schema import migrate
from cli.up.ports import pick_ports
from tests.patience import promised
from tollbridge.auth.v1 import auth_pb2 as pb

CONFIG = """
keys: {prefix: tb_test_}
plans: [{id: free, requests_per_minute: 10}]
billing: {default_plan: free, stripe: {secret_key: "${NOBODY_SET_THIS}"}}
"""


@asynccontextmanager
async def auth_process(*, database: str, nats_url: str, config: Path) -> AsyncIterator[PipeClient]:
    """One `python -m services.auth` and a client of it; SIGTERM must end it well."""
    port = pick_ports(1)[0]
    environ = {
        **os.environ,
        "TOLLBRIDGE_DATABASE_URL": database,
        "TOLLBRIDGE_NATS_URL": nats_url,
        "TOLLBRIDGE_GRPC_BIND": f"127.0.0.1:{port}",
        "TOLLBRIDGE_SERVICE_TOKENS": "edge:secret",
        "TOLLBRIDGE_KEY_PEPPERS": "1:" + "7c" * 32,
        "TOLLBRIDGE_CONFIG_PATH": str(config),
    }
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "services.auth", env=environ)
    client = PipeClient(
        descriptor=pb.DESCRIPTOR.services_by_name["AuthService"],
        addresses=f"127.0.0.1:{port}",
        token="edge:secret",
        tracer=Tracer(service="test", replica="0", otlp_endpoint=""),
    )
    await client.start()
    try:
        yield client
    finally:
        await client.close()
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 20) == 0


@pytest.fixture(scope="module")
async def database(postgres_url: str) -> str:
    await asyncio.to_thread(migrate, postgres_url, service="auth")
    return postgres_url


async def may_use(client: PipeClient, secret: str) -> bool:
    request = pb.AuthorizeRequest(api_key=secret)
    try:
        await client.call("Authorize", request, pb.AuthorizeResponse, timeout_s=30)
    except TollbridgeError as error:
        if error.code is not Code.INVALID_API_KEY:
            raise
        return False
    return True


async def revoked_everywhere_after_s(first: PipeClient, second: PipeClient) -> float:
    """Makes a key, warms both replicas with it, revokes it on one; how long until both refuse it."""
    customer = pb.CreateCustomerRequest(request_id=str(uuid.uuid4()), name="Somebody")
    made = await first.call("CreateCustomer", customer, pb.CreateCustomerResponse, timeout_s=30)
    key = pb.CreateKeyRequest(request_id=str(uuid.uuid4()), customer_id=made.customer.id)
    new = await second.call("CreateKey", key, pb.CreateKeyResponse, timeout_s=30)
    assert new.secret.startswith("tb_test_")
    assert all(await asyncio.gather(may_use(first, new.secret), may_use(second, new.secret)))
    revoke = pb.RevokeKeyRequest(request_id=str(uuid.uuid4()), key_id=new.key.id)
    await first.call("RevokeKey", revoke, pb.RevokeKeyResponse, timeout_s=30)
    revoked_at_s = time.monotonic()
    while any(await asyncio.gather(may_use(first, new.secret), may_use(second, new.secret))):
        assert time.monotonic() - revoked_at_s < promised(5)
        await asyncio.sleep(0.01)
    return time.monotonic() - revoked_at_s


async def test_revocation_reaches_both_replicas_within_a_second_with_and_without_nats(
    database: str, nats_server, nats_url: str, tmp_path: Path
):
    """The bus makes it faster and the poll makes it certain."""
    config = tmp_path / "tollbridge.yaml"
    config.write_text(CONFIG)
    one = {"database": database, "nats_url": nats_url, "config": config}
    async with auth_process(**one) as first, auth_process(**one) as second:
        assert await revoked_everywhere_after_s(first, second) < promised(1.0)
        nats_server.kill()
        try:
            assert await revoked_everywhere_after_s(first, second) < promised(1.0)
        finally:
            nats_server.start()


async def test_a_changed_config_holds_within_two_seconds(database: str, nats_url: str, tmp_path: Path):
    """Limits follow the file without a restart, and a broken file changes nothing."""
    config = tmp_path / "tollbridge.yaml"
    config.write_text(CONFIG)
    async with auth_process(database=database, nats_url=nats_url, config=config) as client:
        customer = pb.CreateCustomerRequest(request_id=str(uuid.uuid4()), name="Somebody")
        made = await client.call("CreateCustomer", customer, pb.CreateCustomerResponse, timeout_s=30)
        key = pb.CreateKeyRequest(request_id=str(uuid.uuid4()), customer_id=made.customer.id)
        new = await client.call("CreateKey", key, pb.CreateKeyResponse, timeout_s=30)

        async def limit() -> int:
            ask = pb.AuthorizeRequest(api_key=new.secret)
            answer = await client.call("Authorize", ask, pb.AuthorizeResponse, timeout_s=30)
            return answer.limits.requests_per_minute

        assert await limit() == 10
        config.write_text(CONFIG.replace("10", "25"))
        deadline = time.monotonic() + promised(4)
        while await limit() != 25:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        config.write_text("plans: [{id: free, requests_per_minute: -1}]")
        state = pb.GetConfigStateResponse()
        while not state.error:
            assert time.monotonic() < deadline + 4
            state = await client.call(
                "GetConfigState", pb.GetConfigStateRequest(), pb.GetConfigStateResponse, timeout_s=30
            )
            await asyncio.sleep(0.05)
        assert "plans[0]" in state.error
        assert await limit() == 25


async def test_without_a_database_nobody_is_let_in_and_it_recovers_by_itself(
    database: str, postgres_server, nats_url: str, tmp_path: Path
):
    """A refusal to try again, in under a second; no restart of ours."""
    config = tmp_path / "tollbridge.yaml"
    config.write_text(CONFIG)
    async with auth_process(database=database, nats_url=nats_url, config=config) as client:
        customer = pb.CreateCustomerRequest(request_id=str(uuid.uuid4()), name="Somebody")
        made = await client.call("CreateCustomer", customer, pb.CreateCustomerResponse, timeout_s=30)
        key = pb.CreateKeyRequest(request_id=str(uuid.uuid4()), customer_id=made.customer.id)
        new = await client.call("CreateKey", key, pb.CreateKeyResponse, timeout_s=30)
        assert await may_use(client, new.secret)
        postgres_server.kill()
        try:
            killed_at_s = time.monotonic()
            while (error := await trouble(client, new.secret)) is None:
                assert time.monotonic() - killed_at_s < promised(2), "a kept answer lives for a second"
            asked_at_s = time.monotonic()
            error = await trouble(client, new.secret)
            assert error is not None
            assert error.code is Code.UNAVAILABLE
            assert error.retry_after_s
            assert time.monotonic() - asked_at_s < promised(1)
        finally:
            postgres_server.start()
        started_at_s = time.monotonic()
        while await trouble(client, new.secret) is not None:
            assert time.monotonic() - started_at_s < promised(10)


async def trouble(client: PipeClient, secret: str) -> TollbridgeError | None:
    """What Authorize fails with, None when it does not."""
    try:
        await client.call("Authorize", pb.AuthorizeRequest(api_key=secret), pb.AuthorizeResponse, timeout_s=30)
    except TollbridgeError as error:
        return error
    return None
