"""The demo customer's first credit."""

from typing import Any, cast

import pytest

from chassis.pipe import PipeClient
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
