"""`/openapi.json` and docs/api.md are true: a running system, asked at random by the one, answers as it says, and every
curl of the other works.
"""

import base64
import contextlib
import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi import checks

from tests.integration.running import ROOT, Account, Gateway, gateway

SURFACES = (
    "  - {prefix: /v1, dialect: openai}\n",
    "  - {prefix: /fly/v1, dialect: dragonfly, without: [videos, images, tasks, files]}\n",
)
HI = [{"role": "user", "content": "Hi."}]
EXAMPLES = 12 if "TOLLBRIDGE_TEST_FACTOR" in os.environ else 3
UNTOUCHED = r"drain$|metrics$|^/docs$|^/openapi\.json$|^/fly/v1/(?!chat|models|credits|keys$)"
"""Not asked at random: what changes the replica for all, what is large and takes no input, what was asked at /v1."""
FENCED = re.findall(r"^```(\w*)\n(.*?)^```$", (ROOT / "docs" / "api.md").read_text(), re.DOTALL | re.MULTILINE)
CURLS = [text[text.index("curl ") :] for language, text in FENCED if not language and "curl " in text]
CHECKS = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
    checks.allow_header_conformance,
]
ANSWERED = ("payment_method_unavailable", "provider_not_configured")
"""What a system of nothing but the sandbox can't do, and says so."""


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """One of its own: admins who do things at random are no neighbours."""
    config = (ROOT / "cli" / "up" / "builtin.yaml").read_text().replace(SURFACES[0], "".join(SURFACES))
    with gateway(tmp_path_factory.mktemp("described"), config) as running:
        yield running


@pytest.fixture(scope="module")
def account(system: Gateway) -> Account:
    """A customer with money."""
    return system.customer(credit_usd="5")


def operations(document: dict[str, Any]) -> Iterator[Any]:
    """What is asked at random."""
    generation = {"with-security-parameters": False, "allow-extra-parameters": False}
    config = SchemathesisConfig.from_dict({"generation": generation})
    for found in schemathesis.openapi.from_dict(document, config=config).get_all_operations():
        operation = found.ok()
        if not re.search(UNTOUCHED, operation.path):
            yield operation


def at_random(operation: Any, mode: GenerationMode, ask: Callable[[Any], None]) -> None:
    """Asks it some times, the same each time that this runs."""
    try:
        strategy = operation.as_strategy(generation_mode=mode)
    except Unsatisfiable:
        return  # nothing that could be wrong
    settings = hypothesis.settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )

    @settings
    @hypothesis.given(case=strategy)
    def run(case: Any) -> None:
        ask(case)

    with contextlib.suppress(Unsatisfiable):
        run()


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_what_is_asked_at_random_is_answered_as_described(mode: GenerationMode, system: Gateway, account: Account):
    """Status, content type, headers and body; wrong input is refused, and nothing is a 500."""
    document = httpx.get(f"{system.base_url}/openapi.json").json()
    problems = []

    def ask(case: Any) -> None:
        token = system.ready["admin_token"] if case.path.startswith("/admin") else account.key
        if mode is GenerationMode.POSITIVE and isinstance(case.body, dict) and isinstance(case.body.get("model"), str):
            case.body["model"] = "sandbox-chat"
        reply = case.call(base_url=system.base_url, headers={"authorization": f"Bearer {token}"})
        case.validate_response(reply, checks=CHECKS)
        assert reply.status_code < 500 or any(code in reply.text for code in ANSWERED), (
            f"{case.as_curl_command()}: {reply.text}"
        )

    for operation in operations(document):
        try:
            at_random(operation, mode, ask)
        except (Exception, BaseExceptionGroup) as problem:  # noqa: BLE001  all of them are shown together
            problems.append(f"{operation.label}: {problem}")
    assert not problems, "\n\n".join(problems)


CALLS = [
    ("POST", "/chat/completions", {"model": "sandbox-chat", "messages": HI}),
    ("POST", "/chat/completions", {"model": "sandbox-chat", "messages": HI, "stream": True}),
    ("POST", "/messages", {"model": "sandbox-chat", "max_tokens": 9, "messages": HI}),
    ("POST", "/messages", {"model": "sandbox-chat", "max_tokens": 9, "messages": HI, "stream": True}),
    ("POST", "/messages/count_tokens", {"model": "sandbox-chat", "messages": HI}),
    ("POST", "/responses", {"model": "sandbox-chat", "input": "Hi."}),
    ("POST", "/completions", {"model": "sandbox-chat", "prompt": "Hi."}),
    ("POST", "/embeddings", {"model": "sandbox-embedding", "input": ["Hi."]}),
    ("POST", "/images/generations", {"model": "sandbox-image", "prompt": "A cat"}),
    ("POST", "/quote", {"model": "sandbox-chat", "messages": HI}),
    ("GET", "/models/sandbox-chat", None),
    ("GET", "/models", None),
    ("GET", "/tasks", None),
    ("GET", "/usage", None),
    ("GET", "/requests", None),
]


@pytest.mark.parametrize(("method", "path", "body"), CALLS)
def test_good_answers_are_as_described(method: str, path: str, body: object, system: Gateway, account: Account):
    """What the models answer, too, has the fields that are promised."""
    document = schemathesis.openapi.from_url(f"{system.base_url}/openapi.json")
    described = "/models/{model_id}" if path.startswith("/models/") else path
    reply = httpx.request(method, f"{system.base_url}/v1{path}", json=body, headers=account.headers, timeout=20)
    assert reply.status_code == 200, reply.text
    operation = document[f"/v1{described}"][method]
    operation.validate_response(reply)


def test_a_receipt_is_as_described(system: Gateway, account: Account):
    """Settled and signed, it has the fields that are promised."""
    body = {"model": "sandbox-chat", "messages": HI}
    made = httpx.post(f"{system.base_url}/v1/chat/completions", json=body, headers=account.headers, timeout=20)
    request_id = made.headers["x-request-id"]
    assert account.receipt(request_id)["settled"]
    reply = httpx.get(f"{system.base_url}/v1/requests/{request_id}", headers=account.headers, timeout=20)
    document = schemathesis.openapi.from_url(f"{system.base_url}/openapi.json")
    document["/v1/requests/{request_id}"]["GET"].validate_response(reply)


def test_the_page_shows_every_endpoint_and_loads_nothing(system: Gateway):
    """Its policy allows no script, no image, no font and nobody else's style; closed networks can read it."""
    document = httpx.get(f"{system.base_url}/openapi.json").json()
    reply = httpx.get(f"{system.base_url}/docs")
    page, policy = reply.text, reply.headers["content-security-policy"]
    assert reply.headers["content-type"].startswith("text/html")
    assert all(f"<code>{path}</code>" in page for path in document["paths"])
    style = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    hashed = base64.b64encode(hashlib.sha256(style[0].encode()).digest()).decode()
    assert policy.startswith(f"default-src 'none'; style-src 'sha256-{hashed}'")
    assert len(style) == 1
    assert not re.findall(r"<(?:script|link|img|iframe)|\bstyle=|\bon[a-z]+=|(?:src|href)=\"(?!#|/openapi)", page)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is missing")
@pytest.mark.parametrize("commands", CURLS, ids=[f"block-{number}" for number in range(len(CURLS))])
def test_every_curl_works(commands: str, system: Gateway, account: Account, tmp_path: Path):
    """As docs/api.md has it, with a key of one's own."""
    (tmp_path / "speech.mp3").write_bytes(b"ID3" + b"\0" * 4000)
    task = httpx.post(
        f"{system.base_url}/v1/images/generations",
        json={"model": "sandbox-image", "prompt": "A lighthouse"},
        headers=account.headers,
        timeout=20,
    )
    values = {
        "URL": system.base_url,
        "KEY": account.key,
        "ADMIN_TOKEN": system.ready["admin_token"],
        "TASK": task.json()["task_id"],
    }
    done = subprocess.run(
        ["bash", "-ec", commands.replace("curl ", "curl -sS --fail-with-body --max-time 20 ")],
        cwd=tmp_path,
        env={**os.environ, **values},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0 or any(code in done.stdout for code in ANSWERED), done.stdout + done.stderr
