"""Everything works in a gateway in which nobody is trusted by being inside, and each is refused what is another's."""

import asyncio
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import uuid
from collections.abc import Iterator
from decimal import Decimal

import aiohttp
import grpc
import httpx
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.conftest import RunningServer
from tests.faults.fleet import NEW, OWNERS, SERVICES
from tests.faults.load import PRICE, QUICK, Seen, ask
from tests.faults.strict import SESSIONS, Strict, strict_system
from tests.integration.offer import CONFIG
from tests.integration.running import ROOT, Account, wait_until
from tests.unit.chassis.authority import Authority

AT_ONCE = 12
PATIENCE_S = 40.0
IMAGE_USD, FIXED_USD = Decimal("0.02"), Decimal("0.03")


@pytest.fixture(scope="module")
def strict(postgres_server: RunningServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Strict]:
    """It runs."""
    with strict_system(postgres_server.server, tmp_path_factory.mktemp("strict"), CONFIG, NEW) as running:
        yield running


async def served(account: Account, url: str, *, count: int = AT_ONCE) -> list[Seen]:
    """Streams and whole answers at once."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:
        asking = (ask(session, account, url, stream=bool(number % 2), script=QUICK) for number in range(count))
        return await asyncio.gather(*asking)


def works(strict: Strict) -> None:
    """A customer's day: chats, streams, a picture and its file, a repeated request; then their key is revoked."""
    account = strict.fleet.customer(credit_usd="5")
    seen = asyncio.run(served(account, strict.fleet.base_url))
    assert [each for each in seen if each.status != 200 or not each.complete] == []
    with httpx.Client(base_url=strict.fleet.base_url, headers=account.headers, timeout=60) as client:
        image = {"model": "sandbox-image", "prompt": "x", "size": "256x256"}
        made = client.post("/v1/images/generations", json=image)
        assert made.status_code == 200, made.text
        assert client.get(made.json()["data"][0]["url"]).content
        body = {"model": "fixed-chat", "messages": [{"role": "user", "content": "x"}]}
        once = {"idempotency-key": str(uuid.uuid4())}
        first, again = (client.post("/v1/chat/completions", json=body, headers=once) for _ in range(2))
        assert (first.status_code, first.text) == (200, again.text)
        account.charged(PRICE * AT_ONCE + IMAGE_USD + FIXED_USD, PATIENCE_S)
        account.settled_credits(PATIENCE_S)
        strict.fleet.admin("DELETE", f"/admin/keys/{account.key_id}")
        wait_until(lambda: client.get("/v1/credits").status_code == 401, timeout_s=PATIENCE_S, what="it is revoked")
    assert strict.fleet.verify()["clean"]


def test_everything_works_and_is_charged_to_the_nano_dollar(strict: Strict) -> None:
    """And nothing that was wanted of NATS was refused."""
    works(strict)
    assert "violation" not in strict.nats_log.read_text().lower()


def run(strict: Strict, *arguments: str, who: str = "proof", given: str = "", **environ: str) -> str:
    """A command of an operator, which must succeed; what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "cli", *arguments],
        cwd=ROOT,
        env={**strict.environ(who), **environ},
        input=given,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.thorough
def test_commands_work_as_jobs_of_their_own(strict: Strict) -> None:
    """The proof as its own user over TLS, a lost edge's spool as edge, the rest by the owner's URL."""
    run(strict, "migrate")
    customer = json.loads(run(strict, "admin", "customers", "create", "jobs", "--credit-usd", "1", "--json"))
    key = json.loads(run(strict, "admin", "keys", "create", "k", "--customer", customer["id"], "--json"))
    account = Account(gateway=strict.fleet, customer_id=customer["id"], key=key["key"], key_id=key["id"])
    (seen,) = asyncio.run(served(account, strict.fleet.base_url, count=1))
    strict.fleet.end_one("edge", NEW, signal.SIGKILL)
    spool = str(strict.fleet.data_dir / "spool")
    said = run(strict, "spool", "replay", spool, who="edge", TOLLBRIDGE_SERVICE_TOKEN="edge")
    assert "events with billing" in said
    strict.fleet.start_one("edge", NEW)
    strict.fleet.await_ready()
    assert Decimal(account.receipt(seen.request_id, PATIENCE_S)["charge"]) == PRICE
    assert json.loads(run(strict, "ledger", "replay", "--json"))["clean"]
    run(strict, "ledger", "prove")


def call(strict: Strict, service: str, method: str, *, shown: str | None, token: str) -> grpc.StatusCode:
    """How an empty call fails that says it is of `token` and shows the certificate of `shown`."""
    folder, address = strict.certificates, strict.fleet.running_address(service)
    if shown is None:
        credentials = grpc.ssl_channel_credentials((folder / service / "ca.crt").read_bytes())
    else:
        files = ((folder / shown / name).read_bytes() for name in ("ca.crt", "tls.key", "tls.crt"))
        credentials = grpc.ssl_channel_credentials(*files)
    options = [("grpc.ssl_target_name_override", service)]
    said = [("authorization", f"Bearer {token}")]
    with grpc.secure_channel(address, credentials, options) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(method)(b"", metadata=said, timeout=PATIENCE_S)
    code: grpc.StatusCode = caught.value.code()
    return code


METHODS = {  # one of each owner's, a caller that may, and one that may not
    "auth": ("tollbridge.auth.v1.AuthService/CreateCustomer", "edge", "tasks"),
    "router": ("tollbridge.router.v1.RouterService/Decide", "edge", "auth"),
    "billing": ("tollbridge.billing.v1.BillingService/Hold", "tasks", "router"),
    "tasks": ("tollbridge.tasks.v1.TasksService/CreateTask", "edge", "billing"),
}
DENIED = grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize("service", OWNERS)
def test_an_owner_answers_those_alone_whose_certificate_says_who_may(strict: Strict, service: str) -> None:
    """Not who shows none, not whose authority signs for others, nor one service under the name of another."""
    method, may, may_not = METHODS[service]
    path = f"/{method}"
    assert call(strict, service, path, shown=may, token=may) is grpc.StatusCode.INVALID_ARGUMENT  # it was let in
    assert call(strict, service, path, shown=may_not, token=may_not) is DENIED
    assert call(strict, service, path, shown=may_not, token=may) is DENIED
    assert call(strict, service, path, shown="stranger", token="stranger") is DENIED
    health = "/grpc.health.v1.Health/Check"
    assert call(strict, service, health, shown=None, token=may) is grpc.StatusCode.UNAVAILABLE
    with grpc.insecure_channel(strict.fleet.running_address(service)) as channel, pytest.raises(grpc.RpcError):
        channel.unary_unary(health)(b"", timeout=PATIENCE_S)


@pytest.mark.parametrize("service", OWNERS)
def test_a_login_opens_its_own_schema_alone(strict: Strict, service: str) -> None:
    """Whoever has one service's URL, and whatever role it asks for."""
    with psycopg.connect(strict.logins[service], autocommit=True) as connection:
        assert connection.execute(f"SELECT count(*) FROM {service}.alembic_version".encode()).fetchone() == (1,)
        for other in OWNERS:
            if other != service:
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    connection.execute(f"SELECT * FROM {other}.alembic_version".encode())
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    connection.execute(f"SET ROLE tollbridge_{other}".encode())
        for statement in ("CREATE TABLE public.x ()", f"CREATE TABLE {service}.x ()", "CREATE SCHEMA x"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement.encode())


def test_poolers_share_few_sessions_among_all(strict: Strict) -> None:
    """What has been served above came through it; skipped where PgBouncer is not installed."""
    if strict.database.pooler is None:
        pytest.skip("pgbouncer is not installed")
    logins = [str(conninfo_to_dict(url)["user"]) for url in strict.logins.values()]
    with psycopg.connect(strict.database.owner_url) as connection:
        counted = "SELECT count(*) FROM pg_stat_activity WHERE usename = ANY(%s) GROUP BY usename"
        most = [count for (count,) in connection.execute(counted, [logins]).fetchall()]
    assert len(most) == len(OWNERS)
    assert max(most) <= SESSIONS


@pytest.mark.thorough
def test_certificates_change_under_everything_without_a_restart(strict: Strict) -> None:
    """Another authority in three steps, as docs/identities.md says; connections made from then on show what is new."""
    old, new = strict.authority, Authority("new")
    both = old.certificate + new.certificate
    folders = [folder for folder in strict.certificates.iterdir() if folder.name != "stranger"]
    names = {folder: "localhost" if folder.name == "nats" else folder.name for folder in folders}
    kept = {service: pid(strict, service) for service in SERVICES if service != "router"}
    for signing, trusting in ((old, both), (new, both), (new, new.certificate)):
        for folder, name in names.items():
            signing.folder(folder, name, trusting=trusting)
        os.kill(strict.nats_process.pid, signal.SIGHUP)
    for service in OWNERS:
        wait_until(
            lambda service=service: signed_by(strict, service, new), timeout_s=PATIENCE_S, what=f"{service} shows it"
        )
    strict.nats_process.kill()  # everybody connects anew, and shows NATS and router what is there now
    strict.nats_process.start()
    strict.fleet.end_one("router", NEW)
    strict.fleet.start_one("router", NEW)
    strict.fleet.await_ready()
    works(strict)
    assert {service: pid(strict, service) for service in kept} == kept
    assert "violation" not in strict.nats_log.read_text().lower()
    # who still has the old authority's is a stranger
    old.folder(strict.certificates / "stranger", "edge", trusting=both)
    for service in OWNERS:
        assert (
            call(strict, service, f"/{METHODS[service][0]}", shown="stranger", token="edge")
            is grpc.StatusCode.UNAVAILABLE
        )


def pid(strict: Strict, service: str) -> int:
    """Of the process that runs."""
    return strict.fleet.pid(service)


def signed_by(strict: Strict, service: str, authority: Authority) -> bool:
    """Whether a new connection is shown a certificate of that authority."""
    context = ssl.create_default_context(cadata=authority.certificate.decode())
    folder = strict.certificates / "cli"
    context.load_cert_chain(folder / "tls.crt", folder / "tls.key")
    host, _, port = strict.fleet.running_address(service).partition(":")
    try:
        with (
            socket.create_connection((host, int(port)), 5) as plain,
            context.wrap_socket(plain, server_hostname=service),
        ):
            return True
    except ssl.SSLError:
        return False
