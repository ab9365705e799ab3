"""The unmodified SDKs and curl complete and stream chats, against both provider protocols, at an exact price."""

import json
import shutil
import subprocess
from decimal import Decimal
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.integration.running import ROOT, Account, Gateway, price_usd

NODE = ROOT / "tests" / "node"


@pytest.fixture(scope="module")
def account(system: Gateway) -> Account:
    """A customer with 5 USD."""
    return system.customer(credit_usd="5")


@pytest.fixture(scope="module")
def client(account: Account) -> openai.OpenAI:
    """The official SDK, pointed at us."""
    return openai.OpenAI(base_url=f"{account.gateway.base_url}/v1", api_key=account.key, max_retries=0)


def said(**script: int) -> list[Any]:
    """A conversation that tells the provider how to answer."""
    # Usage beyond the bytes that were sent can't be, so the text is as long as the tokens that it claims.
    filler = "x" * (script["input_tokens"] + script.get("cached_tokens", 0))
    return [{"role": "user", "content": filler + " #script " + json.dumps(script)}]


SCRIPT = {"input_tokens": 1011, "cached_tokens": 300, "output_tokens": 23}


@pytest.mark.parametrize("model", ["alpha-chat", "claudius-chat"])
def test_python_sdk_completes_at_the_exact_price(client: openai.OpenAI, account: Account, model: str) -> None:
    """A chat through the OpenAI SDK is answered under the public model's name and charged to the nano-dollar."""
    raw = client.chat.completions.with_raw_response.create(model=model, messages=said(**SCRIPT))
    answer = raw.parse()
    assert answer.model == model
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    receipt = account.receipt(raw.headers["x-request-id"])
    check_price(receipt, answer.usage, model)


@pytest.mark.parametrize("model", ["alpha-chat", "claudius-chat"])
def test_python_sdk_streams_at_the_exact_price(client: openai.OpenAI, account: Account, model: str) -> None:
    """A streamed chat ends with the usage chunk that names the charge which the ledger then has."""
    raw = client.chat.completions.with_raw_response.create(
        model=model, messages=said(**SCRIPT), stream=True, stream_options={"include_usage": True}
    )
    text, usage, finish = "", None, None
    for chunk in raw.parse():
        assert chunk.model == model
        if chunk.choices:
            text += chunk.choices[0].delta.content or ""
            finish = chunk.choices[0].finish_reason or finish
        if chunk.usage:
            usage = chunk.usage
    assert text
    assert finish == "stop"
    check_price(account.receipt(raw.headers["x-request-id"]), usage, model)


def check_price(receipt: dict[str, Any], usage: Any, model: str) -> None:
    """The answer's usage, the receipt and tokens × price all agree."""
    tokens = receipt["usage"]
    assert tokens["cached_tokens"] == SCRIPT["cached_tokens"]
    assert tokens["completion_tokens"] == usage.completion_tokens == SCRIPT["output_tokens"]
    assert tokens["prompt_tokens"] == usage.prompt_tokens
    expected = price_usd(
        model,
        input=tokens["prompt_tokens"] - tokens["cached_tokens"],
        cached_input=tokens["cached_tokens"],
        output=tokens["completion_tokens"],
    )
    assert Decimal(receipt["charge"]) == expected
    assert Decimal(str(usage.cost)) == expected
    assert receipt["evidence"] == "provider"
    assert receipt["ended"] == "complete"


def test_curl_reads_a_stream_with_plain_numbers(account: Account) -> None:
    """curl sees server-sent events, `[DONE]` at the end, and a cost in plain decimal notation."""
    body = {
        "model": "alpha-chat",
        "stream": True,
        "stream_options": {"include_usage": True},
        "messages": said(input_tokens=11, output_tokens=3),
    }
    command = ["curl", "-sSN", f"{account.gateway.base_url}/v1/chat/completions"]
    command += ["-H", f"Authorization: Bearer {account.key}", "-H", "Content-Type: application/json"]
    done = subprocess.run([*command, "-d", json.dumps(body)], capture_output=True, text=True, timeout=30, check=True)
    events = [line.removeprefix("data: ") for line in done.stdout.splitlines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    assert '"cost":0.000008151' in events[-2].replace(" ", "")


def test_node_sdk_completes_and_streams(account: Account) -> None:
    """The OpenAI SDK for Node completes and streams, and reads the cost."""
    modules = node_modules()
    script = NODE / "openai_client.mjs"
    command = ["node", str(script), f"{account.gateway.base_url}/v1", account.key, "alpha-chat"]
    done = subprocess.run(command, cwd=modules.parent, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["completed"]
    assert seen["streamed"]
    assert seen["cost"] > 0


def node_modules() -> Path:
    """Installs the Node packages by their lock, once; skips where there is no Node."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not installed")
    modules = NODE / "node_modules"
    if not (modules / "openai").exists():
        command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        subprocess.run(command, cwd=NODE, check=True, capture_output=True, timeout=180)
    return modules
