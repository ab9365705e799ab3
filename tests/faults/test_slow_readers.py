"""A download at 4 KB/s, over the line of an honest client with the usual buffers, for longer than anybody is waited for
who takes nothing: it comes whole."""

import socket
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import pytest

from services.edge.http.unread import TIMEOUT_S
from tests.integration.offer import CONFIG
from tests.integration.running import Gateway, gateway, wait_until

BYTES_PER_S = 4000
TEXT = "This is a sentence of fifty-two characters and a dot. " * 100


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A system of its own: the sandbox speaks."""
    with gateway(tmp_path_factory.mktemp("slow"), CONFIG % {"provider": "http://127.0.0.1:9"}) as found:
        yield found


@pytest.mark.thorough
def test_a_file_that_is_read_at_four_kilobytes_a_second_comes_whole(system: Gateway) -> None:
    """Twelve megabytes, of which the kernels of both sides keep no more than half."""
    account = system.customer(credit_usd="1")
    order = {"model": "tts-1", "voice": "alloy", "input": TEXT, "response_format": "wav", "speed": 0.5}
    headers = account.headers | {"prefer": "respond-async"}
    task = httpx.post(f"{system.base_url}/v1/audio/speech", json=order, headers=headers, timeout=60).json()
    where = f"{system.base_url}/v1/tasks/{task['task_id']}"

    def made() -> str:
        result = httpx.get(where, headers=account.headers, timeout=30).json()["result"]
        return str(result["data"][0]["url"]) if result else ""

    wait_until(made, timeout_s=120, what="the sound")
    link = urlsplit(made())
    size = int(httpx.head(link.geturl(), timeout=30).headers["content-length"])
    assert size > 10_000_000
    with socket.create_connection((link.hostname, link.port), timeout=60) as client:
        client.sendall(
            f"GET {link.path}?{link.query} HTTP/1.1\r\nhost: {link.netloc}\r\nconnection: close\r\n\r\n".encode()
        )
        read, until_s = 0, time.monotonic() + 1.2 * TIMEOUT_S
        while time.monotonic() < until_s:
            time.sleep(0.5)
            read += len(client.recv(BYTES_PER_S // 2))
        while data := client.recv(1 << 20):
            read += len(data)
    assert read > size
