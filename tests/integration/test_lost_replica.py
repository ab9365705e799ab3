"""What a replica leaves on its disk is worth its money: replayed by its successor, or by hand when there is none."""

import contextlib
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import httpx
import pytest

from tests.integration.offer import CONFIG, price_usd
from tests.integration.running import ROOT, Account, Gateway, gateway, provider

LONG = {"chunks": 200, "gap_ms": 100, "input_tokens": 40, "output_tokens": 30}
SHORT = {"chunks": 2, "gap_ms": 0, "input_tokens": 40, "output_tokens": 30}
PRICE = price_usd("alpha-chat", input=40, output=30)


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A system of its own, since its disk is robbed."""
    directory: Path = tmp_path_factory.mktemp("lost")
    with provider(directory) as fake, gateway(directory, CONFIG % {"provider": fake.url}) as running:
        yield running


def body(script: dict[str, int], *, stream: bool) -> dict[str, object]:
    """A request that the fake provider answers by `script`."""
    content = "x" * 40 + " #script " + json.dumps(script)
    return {"model": "alpha-chat", "stream": stream, "messages": [{"role": "user", "content": content}]}


def begin_stream(account: Account, first_byte: threading.Event, ids: list[str]) -> None:
    """Reads a long stream until it breaks."""
    url = f"{account.gateway.base_url}/v1/chat/completions"
    with (
        contextlib.suppress(httpx.HTTPError),
        httpx.stream("POST", url, headers=account.headers, json=body(LONG, stream=True), timeout=60) as reply,
    ):
        ids.append(reply.headers["x-request-id"])
        for _ in reply.iter_raw():
            first_byte.set()


def replay(up: Gateway, lost: Path) -> str:
    """`spool replay`, as an operator runs it."""
    command = [sys.executable, "-m", "cli", "spool", "replay", str(lost), "--data-dir", str(up.data_dir)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_spool_whose_replica_never_returns_is_replayed_by_hand(up: Gateway, tmp_path: Path) -> None:
    """Finished requests are charged once, the cut one not at all and its hold is released; twice changes nothing."""
    account = up.customer(credit_usd="1")
    first_byte, ids = threading.Event(), []
    reader = threading.Thread(target=begin_stream, args=(account, first_byte, ids))
    reader.start()
    assert first_byte.wait(30)
    url = f"{up.base_url}/v1/chat/completions"
    finished = httpx.post(url, headers=account.headers, json=body(SHORT, stream=False), timeout=30)
    assert finished.status_code == 200
    up.kill_everything()
    reader.join(30)
    spool, lost = up.data_dir / "spool" / "edge", tmp_path / "lost"
    shutil.move(spool, lost)
    up.ready_path.unlink()
    up.start()
    copy = tmp_path / "copy"
    shutil.copytree(lost, copy)
    assert "events with billing" in replay(up, lost)
    assert replay(up, lost).endswith("nothing left to replay\n")
    assert Decimal(account.receipt(finished.headers["x-request-id"])["charge"]) == PRICE
    assert Decimal(account.receipt(ids[0])["charge"]) == 0
    assert account.settled_credits()["balance"] == 1 - PRICE
    replay(up, copy)
    assert account.settled_credits()["balance"] == 1 - PRICE
    up.verify()


def test_a_living_replicas_spool_is_left_alone(up: Gateway) -> None:
    """Whoever replays by mistake what is still in use does nothing."""
    assert replay(up, up.data_dir / "spool" / "edge").endswith("nothing left to replay\n")
    assert any((up.data_dir / "spool" / "edge").iterdir())
