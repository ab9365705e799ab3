"""A real system with one of the shipped example configs, and a client that speaks to its public surface over HTTP."""

import contextlib
import dataclasses
import json
import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx

from tests.integration.running import ROOT, Gateway, gateway

KEYS = re.compile(r"\$\{([A-Z_]*(?:KEY|TOKEN|BASE_URL)[A-Z_]*)\b")
Json = dict[str, Any]


@contextlib.contextmanager
def example(name: str, directory: Path, **environ: str) -> Iterator[Gateway]:
    """Runs `examples/<name>.yaml` as it is shipped, with no provider's key, whatever this machine has."""
    config = (ROOT / "examples" / f"{name}.yaml").read_text()
    keyless = dict.fromkeys(KEYS.findall(config), "")
    with gateway(directory, config, **{**keyless, **environ}) as running:
        yield running


@dataclasses.dataclass(frozen=True, kw_only=True)
class Client:
    """A customer's key, used below one prefix."""

    system: Gateway
    prefix: str
    key: str
    key_id: str = ""
    customer_id: str = ""
    http: httpx.Client = dataclasses.field(default_factory=lambda: httpx.Client(timeout=20, verify=False))
    """Connections are kept; certificates, which take long to load, are for nobody on loopback."""

    def ask(self, method: str, path: str, body: object = None, **headers: str) -> httpx.Response:
        """One call; `body` as JSON, or as it is when it is bytes."""
        sent = {"authorization": f"Bearer {self.key}"} if self.key else {}
        if body is not None:
            sent["content-type"] = "application/json"
        content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        url = f"{self.system.base_url}{self.prefix}{path}"
        return self.http.request(method, url, content=content, headers=sent | headers)

    def get(self, path: str, **headers: str) -> httpx.Response:
        """A GET."""
        return self.ask("GET", path, **headers)

    def post(self, path: str, body: object, **headers: str) -> httpx.Response:
        """A POST."""
        return self.ask("POST", path, body, **headers)

    def chat(self, model: str, text: str = "Say hello.", **fields: Any) -> httpx.Response:
        """A chat completion."""
        body = {"model": model, "messages": [{"role": "user", "content": text}], **fields}
        return self.post("/chat/completions", body)

    def stream(self, model: str, text: str = "Count to five.", **fields: Any) -> "Streamed":
        """A streamed chat completion, read to its end."""
        answer = self.chat(model, text, stream=True, **fields)
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = [event.removeprefix("data: ") for event in answer.text.split("\n\n") if event]
        done = bool(events) and events[-1] == "[DONE]"
        chunks = [json.loads(event) for event in events if event != "[DONE]"]
        return Streamed(chunks=chunks, done=done, headers=answer.headers)

    def balance(self) -> Decimal:
        """What the customer has now, in USD, with what is held for requests."""
        return Decimal(self.get("/credits").json()["data"]["balance"])

    def with_key(self, key: str) -> "Client":
        """The same with another key, or (empty) none."""
        return dataclasses.replace(self, key=key)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Streamed:
    """What a stream brought."""

    chunks: list[Json]
    done: bool
    headers: httpx.Headers

    @property
    def text(self) -> str:
        """The content of all deltas."""
        choices = [choice for chunk in self.chunks for choice in chunk["choices"]]
        return "".join(choice["delta"].get("content") or "" for choice in choices)

    @property
    def usages(self) -> list[Json]:
        """The usage blocks that came."""
        return [chunk["usage"] for chunk in self.chunks if chunk.get("usage")]


def customer(system: Gateway, prefix: str, *, credit_usd: str = "5", **fields: Any) -> Client:
    """A new customer with a key; `fields` go into the key."""
    made = system.admin("POST", "/admin/customers", name="test", credit_usd=credit_usd)
    key = system.admin("POST", "/admin/keys", customer_id=made["id"], name="test", **fields)
    return Client(system=system, prefix=prefix, key=key["key"], key_id=key["id"], customer_id=made["id"])


def directive(**script: Any) -> str:
    """A message that tells the sandbox how to answer."""
    return f"#sandbox {json.dumps(script)}"


def check_chat(body: Json, model: str) -> None:
    """The shape that all documents show for a chat completion, in their order."""
    assert list(body)[:6] == ["id", "object", "created", "model", "choices", "usage"]
    assert (body["object"], body["model"], type(body["created"])) == ("chat.completion", model, int)
    choice = body["choices"][0]
    assert list(choice)[:2] == ["index", "message"]
    assert (choice["index"], choice["finish_reason"]) == (0, "stop")
    assert list(choice["message"])[:2] == ["role", "content"]
    assert choice["message"]["role"] == "assistant"
    assert isinstance(choice["message"]["content"], str)
    usage = body["usage"]
    assert list(usage)[:3] == ["prompt_tokens", "completion_tokens", "total_tokens"]
    assert usage["prompt_tokens"] + usage["completion_tokens"] == usage["total_tokens"]


WEATHER_TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get current weather",
        "parameters": {"type": "object", "properties": {"location": {"type": "string"}}},
    },
}
