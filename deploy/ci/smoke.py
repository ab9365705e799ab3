"""What a customer does, against a running instance, by the standard library: `smoke.py BASE_URL ENV_FILE`.

A customer with credit, a key, a chat, a stream, an image, and the sum of it all to the nano-dollar.
"""

import argparse
import json
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
Json = dict[str, object]
PATIENCE_S = 120.0
CHAT: Json = {"model": "sandbox-chat", "messages": [{"role": "user", "content": "Hello"}]}


class Instance:
    """HTTP to the gateway; statuses are answers, a cut connection is status 0."""

    def __init__(self, *, base_url: str, admin_token: str) -> None:
        self._base_url = base_url
        self._admin_token = admin_token

    def call(
        self, method: str, path: str, body: Json | None = None, *, key: str = "", **headers: str
    ) -> tuple[int, bytes]:
        """One request; `key` is a customer's, else it is the operator's."""
        request = urllib.request.Request(self._base_url + path, method=method, headers=headers)
        request.add_header("authorization", f"Bearer {key or self._admin_token}")
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("content-type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()
        except OSError:
            return 0, b""

    def get(self, method: str, path: str, body: Json | None = None, *, key: str = "", **headers: str) -> Json:
        """The JSON of an answer that must be good, asked again while the system is not."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            status, content = self.call(method, path, body, key=key, **headers)
            if status in (200, 201, 202):
                found: Json = json.loads(content)
                return found
            if status not in (0, 502, 503, 504) or time.monotonic() > deadline:
                raise SystemExit(f"{method} {path}: {status} {content[:300]!r}")
            time.sleep(0.5)


def until(what: str, condition: Callable[[], T | None]) -> T:
    """Asks until there is something."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.3)
    raise SystemExit(f"not within {PATIENCE_S:g} s: {what}")


def cost_nano(answer: bytes) -> int:
    """What an answer says that it cost."""
    return int(json.loads(answer, parse_float=Decimal)["usage"]["cost"] * 10**9)


def use(instance: Instance, key: str) -> int:
    """A chat, a stream and an image; returns what they cost in nano-USD."""
    spent = cost_nano(json.dumps(instance.get("POST", "/v1/chat/completions", CHAT, key=key)).encode())
    options: Json = {"stream": True, "stream_options": {"include_usage": True}}
    status, content = instance.call("POST", "/v1/chat/completions", {**CHAT, **options}, key=key)
    lines = [line[6:] for line in content.split(b"\n") if line.startswith(b"data: ")]
    assert status == 200, content[-300:]
    assert lines[-1] == b"[DONE]", content[-300:]
    spent += cost_nano(lines[-2])
    wanted: Json = {"model": "sandbox-image", "prompt": "a bridge"}
    task = instance.get("POST", "/v1/images/generations", wanted, key=key, prefer="respond-async")["task_id"]
    ends = ("succeeded", "failed", "cancelled")
    done = until("the image is made", lambda: _ended(instance.get("GET", f"/v1/tasks/{task}", key=key), ends))
    assert done["status"] == "succeeded", done
    return spent + int(Decimal(str(done["cost"])) * 10**9)


def _ended(task: Json, ends: tuple[str, ...]) -> Json | None:
    return task if task["status"] in ends else None


def new_key(instance: Instance) -> str:
    """Of a new customer with 5 USD."""
    customer = instance.get("POST", "/admin/customers", {"name": "smoke", "credit_usd": "5"})["id"]
    return str(instance.get("POST", "/admin/keys", {"customer_id": customer, "name": "smoke"})["key"])


def main() -> int:
    """Runs it; the exit status is 1 when anything is wrong."""
    parser = argparse.ArgumentParser()
    parser.add_argument("base_url")
    parser.add_argument("env_file", type=Path)
    parser.add_argument("--edges", type=int, default=1)
    parser.add_argument("--routers", type=int, default=1)
    parser.add_argument("--key", default="", help="of a customer who has 5 USD, instead of a new one")
    asked = parser.parse_args()
    settings = dict(line.split("=", 1) for line in asked.env_file.read_text().splitlines() if "=" in line)
    instance = Instance(base_url=asked.base_url, admin_token=settings["TOLLBRIDGE_ADMIN_TOKEN"])
    key = asked.key or new_key(instance)
    spent = use(instance, key)
    wanted = {"edge": asked.edges, "router": asked.routers}

    def all_there() -> bool:
        replicas = instance.get("GET", "/admin/config")["replicas"]
        assert isinstance(replicas, dict)
        return all(sum(name.startswith(f"{kind}/") for name in replicas) >= least for kind, least in wanted.items())

    until(f"{wanted} have said their config", all_there)
    expected = Decimal(5 * 10**9 - spent) / 10**9

    def settled() -> bool:
        said = instance.get("GET", "/v1/credits", key=key)["data"]
        assert isinstance(said, dict)
        return bool(Decimal(said["balance"]) == expected and Decimal(said["held"]) == 0)

    until(f"5 USD less {spent} nano-USD are {expected}, and nothing is held", settled)
    print(f"smoke: good, {spent} nano-USD delivered and charged")
    return 0


if __name__ == "__main__":
    sys.exit(main())
