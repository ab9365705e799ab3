"""A provider that we did not write, behind the gateway: what it says is relayed and its counts are charged."""

import json
import subprocess
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import httpx
import openai
import pytest

from tests.integration.node import node_modules
from tests.integration.offer import CONFIG, price_usd
from tests.integration.running import Gateway, free_port, gateway, wait_until

USAGE = {"prompt_tokens": 17, "completion_tokens": 9, "total_tokens": 26}


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An independent mock provider that speaks both protocols; skips where there is no Node."""
    modules = node_modules()
    directory: Path = tmp_path_factory.mktemp("outside")
    response = {"content": "It rains in the gateway.", "usage": USAGE}
    fixtures = {"fixtures": [{"match": {"userMessage": "weather"}, "response": response}]}
    (directory / "fixtures.json").write_text(json.dumps(fixtures))
    port = free_port()
    command = [str(modules / ".bin" / "llmock"), "--port", str(port), "--fixtures", str(directory / "fixtures.json")]
    process = subprocess.Popen(command, cwd=directory)
    try:
        wait_until(lambda: listens(port), timeout_s=20, what="the mock listens")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


def listens(port: int) -> bool:
    """Whether something answers HTTP there."""
    try:
        httpx.get(f"http://127.0.0.1:{port}/", timeout=1)
    except httpx.HTTPError:
        return False
    return True


@pytest.fixture(scope="module")
def fronted(tmp_path_factory: pytest.TempPathFactory, outside: str) -> Iterator[Gateway]:
    """A system in front of that mock."""
    with gateway(tmp_path_factory.mktemp("fronted"), CONFIG % {"provider": outside}) as running:
        yield running


@pytest.mark.parametrize("model", ["alpha-chat", "claudius-chat"])
@pytest.mark.parametrize("stream", [False, True])
def test_an_outside_provider_is_relayed_and_charged_exactly(fronted: Gateway, model: str, stream: bool) -> None:
    """Both protocols, streamed or not: the mock's words arrive and its token counts are charged."""
    account = fronted.customer(credit_usd="5")
    client = openai.OpenAI(base_url=f"{fronted.base_url}/v1", api_key=account.key, max_retries=0)
    raw = client.chat.completions.with_raw_response.create(
        model=model, messages=[{"role": "user", "content": "How is the weather?"}], stream=stream
    )
    if stream:
        chunks = list(raw.parse())
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    else:
        text = raw.parse().choices[0].message.content
    assert text == "It rains in the gateway."
    receipt = account.receipt(raw.headers["x-request-id"])
    tokens = receipt["usage"]
    expected = price_usd(model, input=tokens["prompt_tokens"], output=tokens["completion_tokens"])
    assert Decimal(receipt["charge"]) == expected
    assert receipt["ended"] == "complete"
