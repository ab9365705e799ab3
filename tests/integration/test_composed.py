"""What docker-compose.yml has started: reconfigured, paid to, struck under load, and audited as in the fault tests.

deploy/ci/try_compose.sh starts it and names a folder by TOLLBRIDGE_COMPOSED; elsewhere there is nothing to test. There
are the config file that the containers have mounted, and a `ready.json` as of `tollbridge up`.
"""

import asyncio
import contextlib
import functools
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fakes.stripe import FakeStripe, fake_stripe
from tests.faults import load
from tests.faults.at_rest import PRICES
from tests.faults.checker import all_rows, check_credits, check_ledger, check_requests, read_log
from tests.integration.offer import CONFIG
from tests.integration.running import Account, Gateway, Provider, provider, wait_until

PATIENCE_S = 120.0
BETWEEN_STRIKES_S = 2.5
VICTIMS = ("edge-2", "router-2", "billing-1")
TRUSTED = "trusted_proxies: [172.16.0.0/12, 192.168.0.0/16]\n"
STRIPE = '  stripe: {secret_key: "%(key)s", webhook_secret: "%(webhooks)s", api_base: "%(url)s"}\n'


@pytest.fixture(scope="module")
def composed() -> Gateway:
    """The containers, at their one address."""
    if "TOLLBRIDGE_COMPOSED" not in os.environ:
        pytest.skip("no containers were started to be tested: `make containers` does")
    return Gateway.running_already(Path(os.environ["TOLLBRIDGE_COMPOSED"]))


@pytest.fixture(scope="module")
def outside(composed: Gateway) -> str:
    """The address at which containers find what the tests listen on."""
    return str(composed.ready["outside"])


@pytest.fixture(scope="module")
def fake(tmp_path_factory: pytest.TempPathFactory, outside: str) -> Iterator[Provider]:
    """The provider, whose log is the auditor's evidence."""
    with provider(tmp_path_factory.mktemp("composed"), host=outside) as running:
        yield running


@pytest.fixture(scope="module")
def stripe(outside: str) -> Iterator[FakeStripe]:
    """Stripe."""
    with fake_stripe(host=outside) as running:
        yield running


@pytest.fixture(scope="module")
def shop(composed: Gateway, fake: Provider, stripe: FakeStripe) -> Gateway:
    """The containers, once all replicas have taken a config with that provider and Stripe."""
    offer, _, billing = (CONFIG % {"provider": fake.url}).partition("\nbilling: {")
    paid = STRIPE % {"key": stripe.secret_key, "webhooks": stripe.webhook_secret, "url": stripe.url}
    assert billing.startswith("default_plan: enterprise")
    content = f"{offer}\n{TRUSTED}billing:\n  default_plan: enterprise\n{paid}".encode()
    file = composed.data_dir / "config" / "tollbridge.yaml"
    file.with_suffix(".new").write_bytes(content)
    file.with_suffix(".new").replace(file)
    wanted = hashlib.sha256(content).hexdigest()

    def taken() -> bool:
        shown = composed.admin("GET", "/admin/config")
        assert shown["error"] is None, shown
        return set(shown["replicas"].values()) == {wanted}

    wait_until(taken, timeout_s=PATIENCE_S, what="every replica runs the changed config file")
    return composed


def test_a_card_payment_becomes_credit_once(shop: Gateway, stripe: FakeStripe) -> None:
    """A checkout, its payment, and the signed webhook twice."""
    account = shop.customer(credit_usd="0")
    reply = httpx.post(
        f"{shop.base_url}/v1/billing/checkout", json={"amount_usd": "25.50"}, headers=account.headers, timeout=20
    )
    assert reply.status_code == 200, reply.text
    session = stripe.session_of(reply.json()["url"])
    stripe.pay(session)
    for _ in range(2):
        assert stripe.tell(shop.base_url, "checkout.session.completed", session).status_code == 200
    assert account.credits()["balance"] == Decimal("25.5")


def container(name: str, field: str) -> str:
    """What the engine says of a container of the project."""
    command = ["docker", "inspect", "--format", f"{{{{{field}}}}}", f"tollbridge-{name}"]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()


@contextlib.contextmanager
def struck() -> Iterator[None]:
    """SIGKILL by their pids, one after the other: what `docker kill` ends stays ended."""
    pids = [int(container(name, ".State.Pid")) for name in VICTIMS]

    def strike() -> None:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            time.sleep(BETWEEN_STRIKES_S)

    striking = threading.Thread(target=strike)
    striking.start()
    yield
    striking.join()


async def test_containers_killed_under_load_leave_every_nano_dollar_in_its_place(shop: Gateway, fake: Provider) -> None:
    """Whatever was delivered is charged once at its price, what was broken costs nothing, and nothing stays held."""
    accounts = [await asyncio.to_thread(shop.customer, credit_usd="5") for _ in range(2)]
    seen = await load.under_load(accounts, struck(), for_s=len(VICTIMS) * BETWEEN_STRIKES_S)
    for name in VICTIMS:
        is_well = functools.partial(_is_well, name)
        await asyncio.to_thread(wait_until, is_well, timeout_s=PATIENCE_S, what=f"{name} was started again")
    assert {each.status for each in seen} <= {0, 200, 502, 503, 504}, "only cuts, and refusals that may be tried again"
    complete = [each for each in seen if each.complete]
    assert complete
    for each in complete:
        receipt = await asyncio.to_thread(each.account.receipt, each.request_id, PATIENCE_S)
        assert Decimal(receipt["charge"]) == load.PRICE, receipt
    differences = await asyncio.to_thread(_differences, shop, fake, accounts)
    assert differences == []


def _is_well(name: str) -> bool:
    return container(name, ".State.Health.Status") == "healthy"


def _differences(shop: Gateway, fake: Provider, accounts: list[Account]) -> list[str]:
    """What the auditor finds once everything is at rest."""
    deadline = time.monotonic() + PATIENCE_S
    while (found := _audit(shop, fake, accounts)) and time.monotonic() < deadline:
        time.sleep(1)
    return found


def _audit(shop: Gateway, fake: Provider, accounts: list[Account]) -> list[str]:
    receipts = {}
    found = []
    for account in accounts:
        with httpx.Client(base_url=shop.base_url, headers=account.headers, timeout=30) as customer:
            mine = {row["id"]: row for row in all_rows(customer, "/v1/requests")}
        receipts |= mine
        figures = account.get("/credits")["data"]
        found += check_credits(figures, mine.values(), credited=Decimal(figures["total_credits"]))
    return found + check_requests(receipts, read_log(fake.log), PRICES) + check_ledger(_ledger(shop))


def _ledger(shop: Gateway) -> dict[str, Any]:
    """`ledger verify --json`, on the database in its container."""
    command = [sys.executable, "-m", "cli", "ledger", "verify", "--json"]
    where = {**os.environ, "TOLLBRIDGE_DATABASE_URL": shop.ready["database_url"]}
    done = subprocess.run(command, env=where, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode in (0, 1), done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report
