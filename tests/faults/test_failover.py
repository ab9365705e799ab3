"""Accounts that refuse, fail or fall silent: another one answers, but never once an answer has begun."""

import json
import os
import signal
from collections import defaultdict
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from tests.faults.at_rest import audited
from tests.faults.checker import read_log
from tests.integration.offer import price_usd
from tests.integration.running import Account, Gateway, Provider, gateway, provider, wait_until

ACCOUNT = """
  - id: p%(id)s
    protocol: openai
    base_url: "%(url)s/v1"
    timeouts: {connect: 1, first_byte: 1, idle: 2, total: 30}
    accounts: [{id: a%(id)s, api_key: key-%(id)s}]"""
MODELS = """
surfaces: [{prefix: /v1, dialect: openai}]
providers:%(providers)s
models:
  - id: alpha-chat
    max_output: 4096
    category: chat
    context: 128000
    routes:
      - {provider: p1, model: upstream-alpha, priority: 1, cost: {input: 0.27, cached_input: 0.027, output: 1.10}}
      - {provider: p2, model: upstream-alpha, priority: 2, cost: {input: 0.27, cached_input: 0.027, output: 1.10}}
    price: {markup: 1.3}
plans: [{id: enterprise}]
billing: {default_plan: enterprise, welcome_credit: 0}
"""
USED = {"input_tokens": 40, "output_tokens": 30}
PRICE = price_usd("alpha-chat", input=40, output=30)
FAILURES: dict[str, dict[str, Any]] = {
    "401": {"status": 401},
    "403": {"status": 403},
    "429": {"status": 429, "retry_after": 30},
    "500": {"status": 500},
    "503": {"status": 503, "retry_after": 30},
    "silent": {"first_byte_ms": 20_000},
    "reset": {"fail_after_chunks": 0},
    "error inside": {"error_after_chunks": 0},
}
QUICK = ("401", "silent")
"""What `make test` tries."""
ASKED = {"silent": 4}
"""How often, where it is not 8 times: each time takes a second."""
RESTS = ("401", "403", "429", "503")


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, Provider]]:
    """Two replicas of edge and of router before two accounts, of which the second is the first one's stand-in."""
    directory: Path = tmp_path_factory.mktemp("failover")
    with provider(directory) as fake:
        both = "".join(ACCOUNT % {"id": number, "url": fake.url} for number in (1, 2))
        with (
            gateway(directory, MODELS % {"providers": both}, replicas={"edge": 2, "router": 2}) as running,
            audited(running, fake),
        ):
            yield running, fake


def ask(account: Account, script: dict[str, Any], *, stream: bool, edge: int) -> httpx.Response:
    """One chat by way of that replica of edge."""
    text = "x" * 40 + " #script " + json.dumps(USED | script)
    body = {"model": "alpha-chat", "stream": stream, "messages": [{"role": "user", "content": text}]}
    url = f"{account.gateway.edge_urls[edge]}/v1/chat/completions"
    return httpx.post(url, json=body, headers=account.headers, timeout=40)


def fresh(running: Gateway) -> None:
    """New router processes know nothing of former failures, when what the killed ones shared is gone too."""
    with psycopg.connect(running.ready["database_url"], autocommit=True) as connection:
        former = [running.pid("router", replica) for replica in (0, 1)]
        for pid in former:
            os.kill(pid, signal.SIGKILL)
        connection.execute("DELETE FROM router.rests")
    wait_until(
        lambda: all(running.pid("router", replica) != former[replica] for replica in (0, 1)),
        timeout_s=20,
        what="new routers are there",
    )
    account = running.customer(credit_usd="1")
    for edge in (0, 1):
        wait_until(
            lambda edge=edge: ask(account, {}, stream=False, edge=edge).status_code == 200,
            timeout_s=20,
            what="new routers",
        )


@pytest.mark.parametrize(
    "failure", [name if name in QUICK else pytest.param(name, marks=pytest.mark.thorough) for name in FAILURES]
)
def test_before_the_first_byte_another_account_answers(rig: tuple[Gateway, Provider], failure: str) -> None:
    """Whatever the first account does, the client gets the second one's answer, whole, and pays for one."""
    running, fake = rig
    fresh(running)
    account = running.customer(credit_usd="1")
    script = {"keys": {"key-1": FAILURES[failure]}}
    ids = []
    asked = ASKED.get(failure, 8)
    for number in range(asked):
        reply = ask(account, script, stream=number % 2 == 0, edge=number % 2)
        assert reply.status_code == 200, reply.text
        assert "error" not in reply.text
        ids.append(reply.headers["x-request-id"])
    for request_id in ids:
        assert Decimal(account.receipt(request_id)["charge"]) == PRICE
    account.charged(asked * PRICE)
    log = read_log(fake.log)
    counts: defaultdict[int, int] = defaultdict(int)
    for request_id in ids:
        counts[len(log[request_id])] += 1
        assert sum(attempt.finished for attempt in log[request_id]) == 1
    if failure in RESTS:
        assert counts[2] <= 2, "each replica of router learns from its first failure"
    running.verify()


def test_after_the_first_byte_no_other_account_is_asked(rig: tuple[Gateway, Provider]) -> None:
    """A stream that breaks ends with an error and costs nothing; the provider saw the request once."""
    running, fake = rig
    fresh(running)
    account = running.customer(credit_usd="1")
    for edge in (0, 1):
        reply = ask(account, {"keys": {"key-1": {"fail_after_chunks": 2}}}, stream=True, edge=edge)
        request_id = reply.headers["x-request-id"]
        assert "word2" in reply.text
        assert '"error"' in reply.text
        assert "[DONE]" not in reply.text
        receipt = account.receipt(request_id)
        assert (Decimal(receipt["charge"]), receipt["ended"]) == (0, "upstream_failed")
        assert len(read_log(fake.log)[request_id]) == 1
    account.charged(0)
    running.verify()


def test_when_all_accounts_rest_the_refusal_says_how_long(rig: tuple[Gateway, Provider]) -> None:
    """Two accounts over their limit: an error with a pause, and nothing is held or charged."""
    running, _ = rig
    fresh(running)
    account = running.customer(credit_usd="1")
    replies = [ask(account, {"status": 429, "retry_after": 20}, stream=bool(n % 2), edge=n % 2) for n in range(6)]
    assert {reply.status_code for reply in replies} <= {429, 503}
    assert all(1 <= float(reply.headers["retry-after"]) <= 20 for reply in replies)
    assert account.settled_credits()["balance"] == 1
    running.verify()
