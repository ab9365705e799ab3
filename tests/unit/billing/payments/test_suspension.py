"""Whoever had a payment taken back is suspended, once for each cause."""

from typing import Any

import pytest

from services.billing.payments.suspension import suspending
from tollbridge.auth.v1 import auth_pb2

ACTIVE, SUSPENDED = auth_pb2.CUSTOMER_STATUS_ACTIVE, auth_pb2.CUSTOMER_STATUS_SUSPENDED
BANNED = auth_pb2.CUSTOMER_STATUS_BANNED


class Auth:
    """One customer; the same call id changes nothing twice, as auth has it."""

    def __init__(self, status: auth_pb2.CustomerStatus.ValueType) -> None:
        self.status = status
        self.calls: set[str] = set()

    async def call(self, method: str, request: Any, response_type: Any, *, timeout_s: float) -> Any:
        assert timeout_s > 0
        if method == "UpdateCustomer" and request.request_id not in self.calls:
            self.calls.add(request.request_id)
            self.status = request.status
        return response_type(customer=auth_pb2.Customer(id=request.customer_id, status=self.status))


@pytest.mark.parametrize(("before", "after"), [(ACTIVE, SUSPENDED), (SUSPENDED, SUSPENDED), (BANNED, BANNED)])
async def test_who_is_banned_stays_banned(
    before: auth_pb2.CustomerStatus.ValueType, after: auth_pb2.CustomerStatus.ValueType
):
    """All others are suspended."""
    auth = Auth(before)
    await suspending(auth)("c", "reversal:ch_1:500")  # type: ignore[arg-type]  # all that is used of a pipe
    assert auth.status == after


async def test_who_was_reinstated_stays_so_though_two_causes_came_together():
    """Also the one that found them suspended counts: its list, which comes every half hour, suspends nobody again."""
    auth = Auth(ACTIVE)
    suspend = suspending(auth)  # type: ignore[arg-type]  # as above
    for cause in ("reversal:ch_1:500", "reversal:ch_2:700"):
        await suspend("c", cause)
    auth.status = ACTIVE
    for cause in ("reversal:ch_1:500", "reversal:ch_2:700"):
        await suspend("c", cause)
    assert auth.status == ACTIVE
