"""Changes of keys and customers reach every replica within a second, and leave by the outbox."""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable

import pytest
import structlog

from chassis.errors import Code, TollbridgeError
from services.auth.changes import ChangeOutbox
from tests.unit.auth.replica import Replica, refused, running
from tollbridge.auth.v1 import auth_pb2 as pb


@pytest.mark.parametrize("status", [pb.CUSTOMER_STATUS_SUSPENDED, pb.CUSTOMER_STATUS_BANNED])
async def test_a_suspended_customer_is_refused_at_once_and_let_in_again(replica: Replica, status: int):
    """Kept answers of this replica are dropped by the poll."""
    customer = await replica.new_customer()
    made = await replica.new_key(customer_id=customer.id)
    await replica.authorize(made.secret)

    async def set_status(wanted: int) -> None:
        request = pb.UpdateCustomerRequest(request_id=str(uuid.uuid4()), customer_id=customer.id, status=wanted)
        await replica.call("UpdateCustomer", request, pb.UpdateCustomerResponse)

    await set_status(status)
    assert await until_refused(replica, made.secret) is Code.CUSTOMER_SUSPENDED
    await set_status(pb.CUSTOMER_STATUS_ACTIVE)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            await replica.authorize(made.secret)
        except TollbridgeError:
            await asyncio.sleep(0.02)
        else:
            return
    raise AssertionError("the customer was not let in again")


async def test_a_revoked_key_is_refused_by_both_replicas_within_a_second_without_nats(replica: Replica, database: str):
    """Also when every answer is used for as long as it says it may be."""
    async with running(database) as other:
        customer = await replica.new_customer()
        made = await replica.new_key(customer_id=customer.id)
        for _ in range(3):
            await asyncio.gather(replica.authorize(made.secret), other.authorize(made.secret))
        watchers = [asyncio.create_task(last_use(one, made.secret, give_up_s=5.0)) for one in (replica, other)]
        await asyncio.gather(*(other.authorize(made.secret) for _ in range(3)))
        request = pb.RevokeKeyRequest(request_id="r", key_id=made.key.id)
        await other.call("RevokeKey", request, pb.RevokeKeyResponse)
        revoked_at_s = time.monotonic()
        for until_s in await asyncio.gather(*watchers):
            assert until_s - revoked_at_s < 1.0


async def test_changes_leave_by_the_outbox_once(replica: Replica):
    """In the transaction of the change; one replica publishes, the other finds nothing."""
    sent: list[bytes] = []

    async def announce(data: bytes) -> None:
        sent.append(data)

    outbox = outbox_of(replica, announce)
    while await outbox.publish():
        pass
    sent.clear()
    customer = await replica.new_customer()
    made = await replica.new_key(customer_id=customer.id)
    request = pb.RevokeKeyRequest(request_id="r", key_id=made.key.id)
    await replica.call("RevokeKey", request, pb.RevokeKeyResponse)
    published = await asyncio.gather(outbox.publish(), outbox.publish())
    assert sorted(published) == [0, 1]
    events = pb.KeyChangedBatch.FromString(sent[0]).events
    assert [(event.key_id, event.customer_id) for event in events] == [(made.key.id, customer.id)]


async def test_a_bus_that_is_away_loses_no_change(replica: Replica):
    """It stays in the outbox."""

    async def away(_: bytes) -> None:
        raise TollbridgeError(Code.UNAVAILABLE, "no bus")

    customer = await replica.new_customer()
    made = await replica.new_key(customer_id=customer.id)
    request = pb.RevokeKeyRequest(request_id="r", key_id=made.key.id)
    await replica.call("RevokeKey", request, pb.RevokeKeyResponse)
    assert await refused(outbox_of(replica, away).publish()) is Code.UNAVAILABLE
    sent: list[bytes] = []

    async def announce(data: bytes) -> None:
        sent.append(data)

    assert await outbox_of(replica, announce).publish() == 1


async def test_who_hears_of_a_revocation_and_asks_at_once_is_refused(replica: Replica):
    """The replica that tells others has itself forgotten first."""
    heard: list[Code] = []
    customer = await replica.new_customer()
    made = await replica.new_key(customer_id=customer.id)

    async def announce(_: bytes) -> None:
        heard.append(await refused(replica.authorize(made.secret)))

    await replica.authorize(made.secret)
    await replica.call("RevokeKey", pb.RevokeKeyRequest(request_id="r", key_id=made.key.id), pb.RevokeKeyResponse)
    assert await outbox_of(replica, announce).publish() == 1
    assert heard == [Code.INVALID_API_KEY]


def outbox_of(replica: Replica, announce: Callable[[bytes], Awaitable[None]]) -> ChangeOutbox:
    return ChangeOutbox(
        pool=replica.pool,
        kept=replica.parts.kept,
        announce=announce,
        changed=asyncio.Event(),
        log=structlog.get_logger(),
    )


async def until_refused(replica: Replica, secret: str) -> Code:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            await replica.authorize(secret)
        except TollbridgeError as error:
            return error.code
        await asyncio.sleep(0.02)
    raise AssertionError("it was never refused")


async def last_use(replica: Replica, secret: str, *, give_up_s: float) -> float:
    """Asks like edge does, keeping each answer for as long as it allows; the instant of the last permitted use."""
    started_s = time.monotonic()
    usable_until_s = started_s
    while time.monotonic() < started_s + give_up_s:
        asked_s = time.monotonic()
        try:
            answer = await replica.authorize(secret)
        except TollbridgeError:
            return usable_until_s
        usable_until_s = max(usable_until_s, asked_s + answer.keep_ms / 1000)
        await asyncio.sleep(0.01)
    raise AssertionError("it was never refused")
