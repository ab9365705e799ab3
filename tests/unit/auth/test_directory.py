"""Customers and keys on a real PostgreSQL: made once, listed in order, ended by their owner only."""

import asyncio
import uuid

import psycopg
import pytest

from chassis.errors import Code
from services.auth import directory as auth_directory
from tests.unit.auth.replica import DEFAULT_CUSTOMER, Replica, refused
from tollbridge.auth.v1 import auth_pb2 as pb


async def test_a_new_key_lets_its_customer_in(replica: Replica):
    """With the limits, models and cap it was made with."""
    customer = await replica.new_customer(email="a@example.com")
    limits = pb.Limits(requests_per_minute=7)
    made = await replica.new_key(
        customer_id=customer.id,
        name="laptop",
        models=["m1", "m2"],
        limits=limits,
        spend_cap=pb.SpendCap(amount_nano_usd=5_000_000_000, per="day"),
    )
    answer = await replica.authorize(made.secret)
    assert (answer.customer_id, answer.key_id) == (customer.id, made.key.id)
    assert answer.limits.requests_per_minute == 7
    assert list(answer.models) == ["m1", "m2"]
    assert answer.spend_cap.per == "day"
    assert 0 < answer.keep_ms <= 1000
    assert made.key.prefix == made.secret[:12]


async def test_a_customers_cap_is_told_with_each_of_their_keys_until_it_is_lifted(replica: Replica):
    """A change of something else keeps it."""
    customer = await replica.new_customer(spend_cap=pb.SpendCap(amount_nano_usd=7, per="month"))
    made = await replica.new_key(customer_id=customer.id)

    async def change(**fields) -> pb.Customer:
        request = pb.UpdateCustomerRequest(request_id=str(uuid.uuid4()), customer_id=customer.id, **fields)
        changed = (await replica.call("UpdateCustomer", request, pb.UpdateCustomerResponse)).customer
        replica.parts.kept.clear()
        return changed

    assert customer.spend_cap == pb.SpendCap(amount_nano_usd=7, per="month")
    assert (await replica.authorize(made.secret)).customer_spend_cap == customer.spend_cap
    assert (await change(status=pb.CUSTOMER_STATUS_ACTIVE)).spend_cap == customer.spend_cap
    raised = pb.SpendCap(amount_nano_usd=9, per="total")
    assert (await change(spend_cap=raised)).spend_cap == raised
    assert (await replica.authorize(made.secret)).customer_spend_cap == raised
    assert not (await change(lifts_spend_cap=True)).HasField("spend_cap")
    assert not (await replica.authorize(made.secret)).HasField("customer_spend_cap")


@pytest.mark.parametrize("cap", [pb.SpendCap(amount_nano_usd=0, per="day"), pb.SpendCap(amount_nano_usd=1, per="year")])
async def test_an_impossible_cap_is_refused_by_name(replica: Replica, cap: pb.SpendCap):
    """For a new customer, a change of one, and a key."""
    customer = await replica.new_customer()
    change = pb.UpdateCustomerRequest(request_id=str(uuid.uuid4()), customer_id=customer.id, spend_cap=cap)
    for call in (
        replica.new_customer(spend_cap=cap),
        replica.new_key(customer_id=customer.id, spend_cap=cap),
        replica.call("UpdateCustomer", change, pb.UpdateCustomerResponse),
    ):
        assert await refused(call) is Code.INVALID_REQUEST


async def test_neither_secret_nor_anything_it_could_be_guessed_from_is_stored(replica: Replica, database: str):
    """A dump of the database lets nobody in; after the hour not even with the pepper."""
    customer = await replica.new_customer()
    made = await replica.new_key(customer_id=customer.id)
    with psycopg.connect(database) as conn:
        dump = str(conn.execute("SELECT * FROM auth.api_keys WHERE id = %s", (made.key.id,)).fetchall())
    assert made.secret not in dump
    assert made.secret[12:] not in dump


async def test_the_same_request_makes_one_key_with_one_secret(replica: Replica):
    """Twenty twins at once, and one later."""
    customer = await replica.new_customer()
    request = {"request_id": str(uuid.uuid4()), "customer_id": customer.id, "name": "twin"}
    made = await asyncio.gather(*(replica.new_key(**request) for _ in range(20)))
    assert len({answer.secret for answer in made}) == 1
    assert len({answer.key.id for answer in made}) == 1
    listed = await replica.call("ListKeys", pb.ListKeysRequest(customer_id=customer.id), pb.ListKeysResponse)
    assert len(listed.keys) == 1


async def test_the_same_request_id_with_other_content_is_refused(replica: Replica):
    """An id stands for one thing."""
    customer = await replica.new_customer()
    request_id = str(uuid.uuid4())
    await replica.new_key(request_id=request_id, customer_id=customer.id, name="one")
    other = replica.new_key(request_id=request_id, customer_id=customer.id, name="other")
    assert await refused(other) is Code.IDEMPOTENCY_MISMATCH


async def test_after_an_hour_the_secret_can_not_be_had_again(replica: Replica, monkeypatch: pytest.MonkeyPatch):
    """The seed is wiped, the key goes on."""
    customer = await replica.new_customer()
    request = {"request_id": str(uuid.uuid4()), "customer_id": customer.id}
    made = await replica.new_key(**request)
    monkeypatch.setattr(auth_directory, "REPLAY_US", -1_000_000)
    await replica.parts.directory.forget_old()
    assert await refused(replica.new_key(**request)) is Code.CONFLICT
    assert (await replica.authorize(made.secret)).key_id == made.key.id


async def test_a_customer_is_made_once_by_request_and_by_wished_id(replica: Replica):
    """Concurrent starts of one installation agree on the default customer."""
    made = await asyncio.gather(
        *(replica.new_customer(customer_id=DEFAULT_CUSTOMER, name=f"n{number}") for number in range(8))
    )
    assert len({customer.name for customer in made}) == 1
    got = await replica.call("GetCustomer", pb.GetCustomerRequest(), pb.GetCustomerResponse)
    assert got.customer.id == DEFAULT_CUSTOMER
    assert (await replica.new_key(name="for the default customer")).key.customer_id == DEFAULT_CUSTOMER


async def test_a_wished_customer_stays_as_it_was_first_made(replica: Replica):
    """The same request id with another name or plan is no conflict: the wished id is what counts."""
    wished = str(uuid.uuid4())
    first = await replica.new_customer(request_id="w" + wished, customer_id=wished, name="first")
    again = await replica.new_customer(request_id="w" + wished, customer_id=wished, name="again")
    assert first == again


async def test_a_repeated_update_does_not_undo_what_came_after_it(replica: Replica):
    """A retry of a lost answer is no second change."""
    customer = await replica.new_customer()
    first = pb.UpdateCustomerRequest(
        request_id="first-" + customer.id, customer_id=customer.id, status=pb.CUSTOMER_STATUS_SUSPENDED
    )
    second = pb.UpdateCustomerRequest(
        request_id="second-" + customer.id, customer_id=customer.id, status=pb.CUSTOMER_STATUS_ACTIVE
    )
    for request in (first, second, first):
        answer = await replica.call("UpdateCustomer", request, pb.UpdateCustomerResponse)
    assert answer.customer.status == pb.CUSTOMER_STATUS_ACTIVE


async def test_a_key_may_be_revoked_twice_but_only_by_its_owner(replica: Replica):
    """Another customer's key is not found."""
    owner, other = await replica.new_customer(), await replica.new_customer()
    made = await replica.new_key(customer_id=owner.id)
    stranger = pb.RevokeKeyRequest(request_id="r", key_id=made.key.id, customer_id=other.id)
    assert await refused(replica.call("RevokeKey", stranger, pb.RevokeKeyResponse)) is Code.NOT_FOUND
    request = pb.RevokeKeyRequest(request_id="r", key_id=made.key.id, customer_id=owner.id)
    once = await replica.call("RevokeKey", request, pb.RevokeKeyResponse)
    twice = await replica.call("RevokeKey", request, pb.RevokeKeyResponse)
    assert once.key.revoked_at_us == twice.key.revoked_at_us > 0


async def test_pages_have_every_key_once_newest_first(replica: Replica):
    """By id, so that a page never moves under a reader."""
    customer = await replica.new_customer()
    made = [(await replica.new_key(customer_id=customer.id)).key.id for _ in range(5)]
    seen: list[str] = []
    after, more = "", True
    while more:
        request = pb.ListKeysRequest(customer_id=customer.id, limit=2, after=after)
        page = await replica.call("ListKeys", request, pb.ListKeysResponse)
        seen += [key.id for key in page.keys]
        after, more = page.keys[-1].id, page.has_more
    assert seen == sorted(made, reverse=True)


RESTRICTIONS = [
    {"models": ["m1"]},
    {"allowed_ips": ["10.0.0.0/8"]},
    {"expires_at_us": 4_000_000_000_000_000},
    {"limits": pb.Limits(requests_per_minute=1)},
    {"limits": pb.Limits(tokens_per_minute=1)},
    {"limits": pb.Limits(concurrent=1)},
    {"spend_cap": pb.SpendCap(amount_nano_usd=1, per="total")},
]


@pytest.mark.parametrize("terms", RESTRICTIONS, ids=lambda terms: next(iter(terms)))
async def test_a_restricted_key_makes_no_key_and_ends_none_but_itself(replica: Replica, terms: dict):
    """Otherwise it would shed its restrictions by a key without them."""
    customer = await replica.new_customer()
    other = await replica.new_key(customer_id=customer.id)
    own = await replica.new_key(customer_id=customer.id, **terms)
    assert await refused(replica.new_key(customer_id=customer.id, made_by=own.key.id)) is Code.PERMISSION_DENIED
    ends = pb.RevokeKeyRequest(key_id=other.key.id, customer_id=customer.id, by_key_id=own.key.id)
    assert await refused(replica.call("RevokeKey", ends, pb.RevokeKeyResponse)) is Code.PERMISSION_DENIED
    itself = pb.RevokeKeyRequest(key_id=own.key.id, customer_id=customer.id, by_key_id=own.key.id)
    assert (await replica.call("RevokeKey", itself, pb.RevokeKeyResponse)).key.revoked_at_us > 0


async def test_a_repeated_request_gives_no_secret_to_a_restricted_key(replica: Replica):
    """Who asks is checked before what was answered to somebody else."""
    customer = await replica.new_customer()
    free, bound = [await replica.new_key(customer_id=customer.id, models=models) for models in ([], ["m1"])]
    request_id = str(uuid.uuid4())
    await replica.new_key(request_id=request_id, customer_id=customer.id, made_by=free.key.id)
    again = replica.new_key(request_id=request_id, customer_id=customer.id, made_by=bound.key.id)
    assert await refused(again) is Code.PERMISSION_DENIED


async def test_a_key_makes_keys_of_its_own_customer_while_it_is_valid(replica: Replica):
    """Neither another customer's key nor a revoked one."""
    owner, other = await replica.new_customer(), await replica.new_customer()
    free = await replica.new_key(customer_id=owner.id)
    assert (await replica.new_key(customer_id=owner.id, made_by=free.key.id)).key.made_by == free.key.id
    assert await refused(replica.new_key(customer_id=other.id, made_by=free.key.id)) is Code.INVALID_API_KEY
    request = pb.RevokeKeyRequest(key_id=free.key.id, customer_id=owner.id)
    await replica.call("RevokeKey", request, pb.RevokeKeyResponse)
    assert await refused(replica.new_key(customer_id=owner.id, made_by=free.key.id)) is Code.INVALID_API_KEY


async def test_only_an_operator_makes_keys_above_the_plan(replica: Replica):
    """Without a plan that is 60 requests a minute; lower is everybody's to choose."""
    customer = await replica.new_customer()
    free = await replica.new_key(customer_id=customer.id)
    for made_by, wished, holds in (("", 1000, 1000), (free.key.id, 1000, 60), (free.key.id, 7, 7)):
        limits = pb.Limits(requests_per_minute=wished)
        made = await replica.new_key(customer_id=customer.id, made_by=made_by, limits=limits)
        assert (await replica.authorize(made.secret)).limits.requests_per_minute == holds
