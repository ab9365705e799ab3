"""A running system is sealed and proven, and agrees with what its providers say they counted."""

import csv
import datetime
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import psycopg

from tests.integration.running import ROOT, Account, Gateway, Provider, wait_until


def _ledger(system: Gateway, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cli", "ledger", *arguments, "--data-dir", str(system.data_dir)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def _receipts(system: Gateway, account: Account, count: int) -> list[dict[str, Any]]:
    made = []
    for number in range(count):
        reply = httpx.post(
            f"{system.base_url}/v1/chat/completions",
            headers=account.headers,
            json={
                "model": "alpha-chat",
                "user": f"{account.customer_id} {number}",
                "messages": [{"role": "user", "content": "hello"}],
            },
            timeout=30,
        )
        assert reply.is_success, reply.text
        made.append(account.receipt(reply.headers["x-request-id"]))
    return made


def test_a_running_system_is_proven_and_its_proofs_are_kept(system: Gateway):
    """Both proofs are clean, their rows are there, and billing seals what was booked."""
    account = system.customer(credit_usd="5")
    _receipts(system, account, 2)

    def proven() -> subprocess.CompletedProcess[str] | None:
        done = _ledger(system, "prove")
        return done if done.returncode == 0 else None

    done = wait_until(proven, timeout_s=90, what="the ledger is proven")
    assert [json.loads(line)["kind"] for line in done.stderr.splitlines()] == ["verify", "replay"]
    with psycopg.connect(system.ready["database_url"]) as connection:
        kept = connection.execute("SELECT DISTINCT kind FROM billing.reconciliations WHERE clean ORDER BY 1").fetchall()
    assert kept == [("replay",), ("verify",)]
    seal = wait_until(
        lambda: _ledger(system, "seal").stdout.strip() or None, timeout_s=90, what="a batch of transfers is sealed"
    )
    assert _ledger(system, "verify", "--seal", seal).returncode == 0
    assert _ledger(system, "verify", "--seal", seal[:-1] + "x").returncode == 1


def test_what_a_provider_counted_is_what_was_charged(system: Gateway, fake_provider: Provider, tmp_path: Path):
    """An export made of the provider's own log agrees; one request less and one token more are found."""
    account = system.customer(credit_usd="5")
    receipts = _receipts(system, account, 3)
    path = tmp_path / "generations.csv"

    def reconciled(rows: list[dict[str, Any]]) -> dict[str, Any]:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        options = ("--provider", "openrouter", "--provider-id", "alpha", "--dry-run", "--json")
        done = _ledger(system, "reconcile", str(path), *options)
        assert done.stdout, done.stderr
        return dict(json.loads(done.stdout))

    rows = _generations(fake_provider, account.customer_id)
    assert len(rows) == len(receipts)
    ids = [receipt["id"] for receipt in receipts]
    found = reconciled(rows)
    assert not {*ids} & {*found["only_here"], *found["unlike"], *found["unbooked"]}
    assert not found["only_there"]
    rows[1]["tokens_completion"] += 1
    found = reconciled([{**rows[0], "generation_id": "gen-stranger"}, *rows[1:]])
    assert ids[0] in found["only_here"]
    assert found["only_there"] == ["gen-stranger"]
    assert ids[1] in found["unlike"]
    assert not found["clean"]


def _generations(fake_provider: Provider, customer_id: str) -> list[dict[str, Any]]:
    """What the provider's log says of this customer's requests, as its console would export it."""
    lines = [json.loads(line) for line in fake_provider.log.read_text().splitlines()]
    users = {line["id"]: line["user"] for line in lines if line["event"] == "arrived" and line["user"]}
    ended = [line for line in lines if line["event"] == "ended" and customer_id in users.get(line["id"], "")]
    return [
        {
            "generation_id": f"chatcmpl-{line['id']}",
            "created_at": datetime.datetime.fromtimestamp(line["at_us"] // 1_000_000, datetime.UTC).isoformat(),
            "model_permaslug": line["model"],
            "tokens_prompt": line["tokens"]["input"] + line["tokens"]["cached_input"],
            "tokens_cached": line["tokens"]["cached_input"],
            "tokens_completion": line["tokens"]["output"],
        }
        for line in sorted(ended, key=lambda line: users[line["id"]])
    ]
