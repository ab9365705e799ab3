"""I8: after a life of top-ups, charges and refunds, both streams make the live ledger of a running system again."""

import json
import subprocess
import sys
from typing import Any

import httpx

from tests.integration.running import ROOT, Gateway, wait_until


def _replay(system: Gateway) -> tuple[int, dict[str, Any]]:
    command = [sys.executable, "-m", "cli", "ledger", "replay", "--json", "--data-dir", str(system.data_dir)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def test_the_streams_of_a_running_system_make_its_ledger(system: Gateway):
    """Every charge came by USAGE, every transfer left on LEDGER, and nothing differs."""
    account = system.customer(credit_usd="5")
    for number in range(5):
        reply = httpx.post(
            f"{system.base_url}/v1/chat/completions",
            headers=account.headers,
            json={"model": "alpha-chat", "messages": [{"role": "user", "content": f"hello {number}"}]},
            timeout=30,
        )
        assert reply.is_success, reply.text
        last = reply.headers["x-request-id"]
    account.receipt(last)
    account.settled_credits()
    system.admin("POST", "/admin/refunds", request_id=last, reason="test")

    def nothing_waits() -> dict[str, Any] | None:
        _, found = _replay(system)
        return found if not found["waiting"] else None

    report = wait_until(nothing_waits, timeout_s=20, what="all usage is applied")
    assert (report["examples"], report["clean"], report["complete"]) == ([], True, True)
    assert report["usage_events"] >= 5
    assert report["transfers"] >= 7
    system.verify()
