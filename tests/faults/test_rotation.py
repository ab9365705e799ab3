"""Every secret is changed while requests go on, as docs/operating.md says, one replica after another: none fails."""

import asyncio
import hashlib
import json
import secrets
import threading
from collections.abc import Iterator
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import aiohttp
import grpc
import httpx
import psycopg
import pytest

from tests.conftest import RunningServer
from tests.faults.fleet import NEW, OWNERS, Version
from tests.faults.load import PRICE, QUICK, Seen, ask
from tests.faults.strict import Strict, strict_system
from tests.faults.test_rolling_restart import PROBE_EVERY_S, Balancer
from tests.faults.test_strict_system import METHODS, PATIENCE_S, call, run
from tests.integration.offer import CONFIG
from tests.integration.running import ROOT, Account, wait_until

NEXT = Version(name="next", root=ROOT)
"""The same code, at other addresses: what a rollout starts beside."""
ASKERS = 4
ASK_EVERY_S = 0.2
PICKY = """
  - id: picky
    protocol: openai
    base_url: "URL/v1"
    accounts: [{id: picky-a, api_key: "${file:FILE}"}]
models:
  - id: picky-chat
    max_output: 100
    category: chat
    routes: [{provider: picky, model: x, cost: {input: 1, output: 2}}]
    price: {input: 1, output: 2}
"""


class House:
    """Rolls services over while clients ask, and remembers what these saw."""

    def __init__(self, strict: Strict, accounts: list[Account]) -> None:
        self._strict, self._accounts = strict, accounts
        self._balancer = Balancer(strict.fleet.all_edge_urls, ready=strict.fleet.edge_urls)
        self._ends = asyncio.Event()
        self.seen: list[Seen] = []

    async def __aenter__(self) -> "House":
        self._asking = [asyncio.create_task(self._keep_asking(number)) for number in range(ASKERS)]
        self._watching = asyncio.create_task(self._balancer.watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._ends.set()
        await asyncio.gather(*self._asking)
        self._watching.cancel()
        await asyncio.gather(self._watching, return_exceptions=True)

    async def _keep_asking(self, number: int) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:
            while not self._ends.is_set():
                account, url = self._accounts[number % len(self._accounts)], self._balancer.choose()
                self.seen.append(await ask(session, account, url, stream=bool(number % 2), script=QUICK))
                await asyncio.sleep(ASK_EVERY_S)

    async def roll(self, *services: str) -> None:
        """A successor of each, with what it is told now; then the former ones end."""
        fleet = self._strict.fleet
        former = {
            service: version
            for service in services
            for version in (NEW, NEXT)
            if fleet.places[service, version.name].process is not None
        }
        for service, version in former.items():
            fleet.start_one(service, NEXT if version is NEW else NEW)
        await asyncio.to_thread(fleet.await_ready)
        await asyncio.sleep(4 * PROBE_EVERY_S)  # until balancer and callers have seen the new ones
        for service, version in former.items():
            await asyncio.to_thread(fleet.end_one, service, version)


def hashed(*tokens: str) -> str:
    """What an owner is told of edge's secrets; the others have certificates alone."""
    edge = [f"edge:sha256:{hashlib.sha256(each.encode()).hexdigest()}" for each in tokens]
    return ",".join([*edge, "tasks", "auth", "router", "billing", "cli"])


def secret() -> str:
    return secrets.token_hex(32)


class Picky(BaseHTTPRequestHandler):
    """A provider that takes one key."""

    key = "first"

    def do_POST(self) -> None:
        """A whole answer, or 401."""
        self.rfile.read(int(self.headers["content-length"]))
        known = self.headers["authorization"] == f"Bearer {type(self).key}"
        choice = {"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        answer = {"id": "x", "object": "chat.completion", "choices": [choice], "usage": usage}
        content = json.dumps(answer if known else {"error": {"message": "wrong key"}}).encode()
        self.send_response(200 if known else 401)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def picky() -> Iterator[str]:
    """Its URL."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Picky) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def strict(postgres_server: RunningServer, tmp_path: Path, picky: str) -> Iterator[Strict]:
    """It runs, with the provider's key in a file."""
    file = tmp_path / "provider-key"
    file.write_text("first")
    config = CONFIG.replace("\nmodels:\n", PICKY.replace("URL", picky).replace("FILE", str(file)), 1)
    told = {"KEY_PEPPERS": f"1:{secret()}", "AT_REST_KEYS": f"1:{secret()}", "RECEIPT_KEY": secret()}
    more = {"": {**told, "SERVICE_TOKENS": hashed("first")}, "edge": {"SERVICE_TOKEN": "edge:first"}}
    with strict_system(postgres_server.server, tmp_path, config, NEW, NEXT, more=more) as running:
        yield running


@pytest.mark.thorough
async def test_every_secret_changes_and_no_request_fails(strict: Strict, tmp_path: Path) -> None:
    """Pepper, service token, at-rest and receipt keys, admin token, passwords of PostgreSQL and NATS, a provider's."""
    told, former = strict.more[""], dict(strict.more[""])
    pepper, at_rest = f"2:{secret()}", f"2:{secret()}"
    account = await asyncio.to_thread(strict.fleet.customer, credit_usd="20")
    async with House(strict, [account]) as house:
        old_login = strict.logins
        strict.logins = await asyncio.to_thread(strict.database.generation, 2)
        told |= {"SERVICE_TOKENS": hashed("first", "second"), "KEY_PEPPERS": f"{pepper},{former['KEY_PEPPERS']}"}
        told |= {"AT_REST_KEYS": f"{at_rest},{former['AT_REST_KEYS']}", "RECEIPT_KEY": secret()}
        await house.roll(*OWNERS)
        await asyncio.to_thread(strict.database.drop, old_login)

        strict.more["edge"] = {"SERVICE_TOKEN": "edge:second", "ADMIN_TOKEN": "tba_second"}
        await house.roll("edge")
        strict.fleet.admin_token = "tba_second"

        told |= {"SERVICE_TOKENS": hashed("second"), "KEY_PEPPERS": f"{former['KEY_PEPPERS']},{pepper}"}
        told["AT_REST_KEYS"] = f"{former['AT_REST_KEYS']},{at_rest}"
        await house.roll(*OWNERS)

        strict.nats.passwords |= {name: f"{name}-other" for name in strict.nats.passwords}
        strict.nats_process.kill()
        await asyncio.to_thread(strict.nats_process.start)
        await house.roll("auth", "billing", "tasks", "edge")

        Picky.key = "second"
        assert await asyncio.to_thread(asked, account) == 502
        (tmp_path / "provider-key").write_text("second")
        tried = lambda: asked(account) == 200  # noqa: E731
        await asyncio.to_thread(wait_until, tried, timeout_s=PATIENCE_S, what="the new key is used")
    await asyncio.to_thread(check, strict, account, house.seen)


def check(strict: Strict, account: Account, seen: list[Seen]) -> None:
    """Nothing failed, all is charged, what was made before is good, and what is old opens nothing."""
    assert [each for each in seen if each.status != 200 or not each.complete] == []
    picked = Decimal("0.000003")  # the provider's one answer
    account.charged(PRICE * len(seen) + picked, timeout_s=60)
    account.settled_credits(PATIENCE_S)
    assert strict.fleet.verify()["clean"]
    assert json.loads(run(strict, "ledger", "replay", "--json"))["clean"]
    keys = f"{strict.fleet.base_url}/.well-known/tollbridge/receipt-keys.json"
    for each in (seen[0], seen[-1]):
        receipt = httpx.get(f"{strict.fleet.base_url}/v1/requests/{each.request_id}", headers=account.headers).text
        run(strict, "receipt", "verify", "-", "--keys", keys, given=receipt)
    method = f"/{METHODS['router'][0]}"
    assert call(strict, "router", method, shown="edge", token="edge:first") is grpc.StatusCode.PERMISSION_DENIED
    assert call(strict, "router", method, shown="edge", token="edge:second") is grpc.StatusCode.INVALID_ARGUMENT
    late = strict.fleet.customer(credit_usd="1")
    assert late.credits()["balance"] == 1
    with psycopg.connect(strict.database.owner_url) as connection:
        made = connection.execute("SELECT id::text, pepper_version FROM auth.api_keys").fetchall()
    assert dict(made) == {account.key_id: 1, late.key_id: 2}
    assert "violation" not in strict.nats_log.read_text().lower()


def asked(account: Account) -> int:
    """How the provider that takes one key answers."""
    body = {"model": "picky-chat", "messages": [{"role": "user", "content": "x"}], "max_tokens": 5}
    url = f"{account.gateway.base_url}/v1/chat/completions"
    return httpx.post(url, json=body, headers=account.headers, timeout=60).status_code
