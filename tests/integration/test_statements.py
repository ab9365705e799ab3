"""A customer proves a charge without us, and their usage report is the sum of their receipts."""

import csv
import http.server
import io
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.running import ROOT, Account, Gateway, wait_until

MODELS = ("alpha-chat", "fixed-chat", "alpha-chat")


@pytest.fixture(scope="module")
def account(system: Gateway) -> Account:
    """A customer with three settled requests."""
    made = system.customer(credit_usd="5")
    for model in MODELS:
        _receipt(made, model)
    return made


def _receipt(account: Account, model: str) -> dict[str, Any]:
    body = {"model": model, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 50}
    url = f"{account.gateway.base_url}/v1/chat/completions"
    reply = httpx.post(url, headers=account.headers, json=body, timeout=20)
    assert reply.is_success, reply.text
    return account.receipt(reply.headers["x-request-id"])


def _verify(*arguments: str) -> int:
    command = [sys.executable, "-m", "cli", "receipt", "verify", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, timeout=60, check=False).returncode


def test_a_receipt_is_checked_offline_with_the_keys_that_are_published(
    system: Gateway, account: Account, tmp_path: Path
):
    """Good as it came; one changed digit and it is not."""
    receipt, keys = tmp_path / "receipt.json", tmp_path / "keys.json"
    found = _receipt(account, "alpha-chat")
    receipt.write_text(json.dumps(found))
    url = f"{system.base_url}/.well-known/tollbridge/receipt-keys.json"
    keys.write_text(httpx.get(url, timeout=10).text)
    assert _verify(str(receipt), "--keys", str(keys)) == 0
    assert _verify(str(receipt), "--keys", url) == 0
    assert _verify(str(receipt), "--data-dir", str(system.data_dir)) == 0
    found["tokens"]["output"] += 1
    receipt.write_text(json.dumps(found))
    assert _verify(str(receipt), "--keys", str(keys)) == 1


@pytest.mark.parametrize(("group_by", "column"), [("model", "model"), ("key", "key_id"), ("day", "day")])
def test_a_usage_report_is_the_sum_of_the_receipts(account: Account, group_by: str, column: str):
    """As JSON and as CSV, to the nano-dollar."""
    log = account.get("/requests?limit=200")["data"]
    listed = account.get(f"/usage?group_by={group_by}")["data"]
    assert sum(Decimal(each["charge"]) for each in listed) == sum(Decimal(each["charge"]) for each in log)
    assert sum(each["requests"] for each in listed) == len(log)
    tokens = sum(each["usage"]["total_tokens"] for each in log)
    assert sum(each["prompt_tokens"] + each["completion_tokens"] for each in listed) == tokens
    url = f"{account.gateway.base_url}/v1/usage?group_by={group_by}"
    reply = httpx.get(url, headers={**account.headers, "accept": "text/csv"}, timeout=10)
    assert reply.headers["content-type"].startswith("text/csv")
    lines = list(csv.DictReader(io.StringIO(reply.text, newline="")))
    assert lines == [{name: str(value) for name, value in each.items()} for each in listed]
    assert column in listed[0]


def test_a_day_that_is_named_as_the_end_is_in_the_report(account: Account):
    """Whoever asks for today gets today; and pages say what comes next."""
    today = account.get("/usage?group_by=day")["data"][-1]["day"]
    assert account.get(f"/usage?group_by=day&from={today}&to={today}")["data"]
    first = account.get("/usage?limit=1")
    assert (len(first["data"]), first["has_more"]) == (1, True)
    second = account.get(f"/usage?limit=1&after={first['next']}")
    assert (second["data"][0]["model"], second["has_more"]) == ("fixed-chat", False)


def test_operators_see_everybody_and_name_one(system: Gateway, account: Account):
    """The same report behind the admin token."""
    everybody = system.admin("GET", "/admin/usage?group_by=customer")["data"]
    own = next(each for each in everybody if each["customer_id"] == account.customer_id)
    named = system.admin("GET", f"/admin/usage?group_by=customer&customer_id={account.customer_id}")["data"]
    assert named == [own]


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("group_by=colour", "group_by"),
        ("group_by=customer", "group_by"),
        ("from=2026-13-01", "from"),
        ("from=yesterday", "from"),
        ("from=2024-01-01&to=2026-01-01", "to"),
        ("from=2026-01-02&to=2026-01-01", "from"),
        ("limit=0", "limit"),
    ],
)
def test_a_wrong_question_is_told_which_part_is_wrong(account: Account, query: str, param: str):
    """400 with the parameter."""
    url = f"{account.gateway.base_url}/v1/usage?{query}"
    reply = httpx.get(url, headers=account.headers, timeout=10)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)


class Receiver(http.server.ThreadingHTTPServer):
    """A customer's own server for webhooks."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Taker)
        self.got: list[dict[str, Any]] = []


class Taker(http.server.BaseHTTPRequestHandler):
    """Takes everything."""

    server: Receiver

    def do_POST(self) -> None:
        self.server.got.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """Running for one test."""
    server = Receiver()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_customer_hears_that_their_balance_is_low_and_then_exhausted(system: Gateway, receiver: Receiver):
    """From a request to the webhook, through everything between."""
    account = system.customer(credit_usd="0.06")
    url = f"http://127.0.0.1:{receiver.server_address[1]}/hook"
    body = {"low_balance": "0.05", "webhook_url": url}
    alerts = f"{system.base_url}/v1/billing/alerts"
    made = httpx.put(alerts, headers=account.headers, json=body, timeout=10).json()
    assert made["webhook_secret"].startswith("whsec_")
    assert account.get("/billing/alerts") == {
        "object": "balance_alert",
        "low_balance": "0.050000000",
        "webhook_url": url,
    }
    assert system.admin("GET", f"/admin/customers/{account.customer_id}/alerts") == account.get("/billing/alerts")
    for _ in range(2):
        _receipt(account, "fixed-chat")
    wait_until(lambda: len(receiver.got) == 2, timeout_s=20, what="two webhooks came")
    assert [(each["type"], each["data"]["balance"]) for each in receiver.got] == [
        ("balance.low", "0.030000000"),
        ("balance.exhausted", "0.000000000"),
    ]


def test_a_webhook_to_a_place_inside_is_refused(account: Account):
    """400 with the field; a cloud's metadata is nobody's receiver."""
    alerts, body = f"{account.gateway.base_url}/v1/billing/alerts", {"webhook_url": "http://169.254.169.254/latest"}
    reply = httpx.put(alerts, headers=account.headers, json=body, timeout=10)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "webhook_url")
