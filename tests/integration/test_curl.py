"""curl completes and streams a chat, as documents show it."""

import json
import subprocess

import pytest

from tests.integration.running import Account, Gateway


@pytest.fixture(scope="module")
def account(system: Gateway) -> Account:
    """A customer with 5 USD."""
    return system.customer(credit_usd="5")


TOLD = 'xxxxxxxxxxx #script {"input_tokens": 11, "output_tokens": 3}'


def test_curl_reads_a_stream_with_plain_numbers(account: Account) -> None:
    """curl sees server-sent events, `[DONE]` at the end, and a cost in plain decimal notation."""
    body = {
        "model": "alpha-chat",
        "stream": True,
        "stream_options": {"include_usage": True},
        "messages": [{"role": "user", "content": TOLD}],
    }
    command = ["curl", "-sSN", f"{account.gateway.base_url}/v1/chat/completions"]
    command += ["-H", f"Authorization: Bearer {account.key}", "-H", "Content-Type: application/json"]
    done = subprocess.run([*command, "-d", json.dumps(body)], capture_output=True, text=True, timeout=30, check=True)
    events = [line.removeprefix("data: ") for line in done.stdout.splitlines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    assert '"cost":0.000008151' in events[-2].replace(" ", "")
