"""The demo customer's first credit."""

import json
import stat
import sys
from pathlib import Path
from typing import Any, cast

import pytest

from chassis.pipe import PipeClient
from cli.up import demo
from cli.up.demo import make_demo
from tollbridge.auth.v1 import auth_pb2
from tollbridge.billing.v1 import billing_pb2

CUSTOMER = "0193c1a0-0000-7000-8000-000000000001"


class Owners:
    """Auth and billing, whose welcome credit is `welcome_nano_usd`."""

    def __init__(self, welcome_nano_usd: int) -> None:
        self.balance_nano_usd = welcome_nano_usd
        self.adjusted: list[int] = []

    async def call(self, method: str, request: Any, _kind: object, **_: object) -> object:
        if method == "OpenAccount":
            balance = billing_pb2.Balance(balance_nano_usd=self.balance_nano_usd)
            return billing_pb2.OpenAccountResponse(balance=balance)
        if method == "AdjustCredit":
            self.adjusted.append(request.amount_nano_usd)
        return auth_pb2.CreateKeyResponse(secret="made")


@pytest.mark.parametrize(
    ("welcome", "adjusted"), [(0, [5_000_000_000]), (1, [4_999_999_999]), (5_000_000_000, []), (7_000_000_000, [])]
)
async def test_the_demo_customer_keeps_a_larger_welcome_credit(welcome: int, adjusted: list[int]) -> None:
    """Credit is given up to 5 USD and never taken back."""
    owners = Owners(welcome)
    client = cast(PipeClient, owners)
    assert await make_demo(auth=client, billing=client, customer_id=CUSTOMER, plan="") == "made"
    assert owners.adjusted == adjusted


def run(monkeypatch: pytest.MonkeyPatch, *options: str) -> None:
    """The program with those options, for a customer of whom each asking makes a new key."""
    made = iter(["tb_live_first", "tb_live_second"])

    async def make(*_: object) -> str:
        return next(made)

    monkeypatch.setattr(demo, "_run", make)
    monkeypatch.setattr(sys, "argv", ["demo", *options])
    demo.main()


def test_in_containers_the_key_is_made_once_and_shown_at_each_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A file that its owner alone can read remembers it; the address is that of the moment."""
    monkeypatch.setenv("TOLLBRIDGE_DEFAULT_CUSTOMER_ID", CUSTOMER)
    kept = tmp_path / "demo.json"
    for address in ("http://127.0.0.1:8080/v1", "http://127.0.0.1:9000/v1"):
        run(monkeypatch, "--keep", str(kept), "--base-url", address)
        assert json.loads(capsys.readouterr().out) == {"base_url": address, "demo_key": "tb_live_first"}
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600


def test_without_a_default_customer_there_is_no_demo(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Nothing is made and nothing is said, which is no failure."""
    monkeypatch.setenv("TOLLBRIDGE_DEFAULT_CUSTOMER_ID", "")
    run(monkeypatch, "--keep", str(tmp_path / "demo.json"))
    assert capsys.readouterr().out == ""
    assert not list(tmp_path.iterdir())
