"""Authorize: who may go on, who may not, and how often the database is asked."""

import asyncio

import pytest

from chassis.errors import Code, TollbridgeError
from services.auth import api_keys
from services.auth.authorize import Authorizer, Grant
from services.auth.config import AuthConfig
from services.auth.customers import Customer, Status
from services.auth.kept_keys import Holder, KeptKeys
from services.auth.key_terms import ApiKey, KeyTerms
from services.auth.limits import Limits
from services.auth.wrong_keys import WrongKeys

PEPPERS = api_keys.Peppers.parse("1:" + "11" * 16 + ",2:" + "22" * 16)
KEY = api_keys.mint(prefix="tb_live_", seed=bytes(32), pepper=PEPPERS.by_version[2])
CONFIG = AuthConfig(plans={"free": Limits(requests_per_minute=10, concurrent=5)}, default_plan="free")


class Table:
    """The look-up, with clocks that a test moves."""

    def __init__(self, holder: Holder | None) -> None:
        self.holder = holder
        self.asked: list[list[bytes]] = []
        self.now_s = 100.0
        self.was_asked = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()
        self.kept = KeptKeys()
        self.authorizer = Authorizer(
            find=self.find,
            peppers=PEPPERS,
            config=lambda: CONFIG,
            kept=self.kept,
            wrong=WrongKeys(),
            clock_s=lambda: self.now_s,
            now_us=lambda: int(self.now_s * 1_000_000),
        )

    async def find(self, digests: list[bytes]) -> Holder | None:
        self.asked.append(digests)
        self.was_asked.set()
        await self.gate.wait()
        return self.holder

    async def ask(self, *, api_key: str = KEY, client_ip: str = "") -> Grant:
        return await self.authorizer.authorize(api_key=api_key, client_ip=client_ip)


def holder(*, status: Status = Status.ACTIVE, plan: str = "", revoked_at_us: int = 0, **terms) -> Holder:
    key = ApiKey(
        id="k",
        customer_id="c",
        shown_prefix="tb_live_abcd",
        terms=KeyTerms(**terms),
        created_at_us=1,
        revoked_at_us=revoked_at_us,
    )
    return Holder(key, Customer(id="c", name="n", plan=plan, status=status))


async def test_a_valid_key_gets_its_plans_limits_with_its_own_overrides():
    """And its models, its plan and a time that the answer may be kept."""
    table = Table(holder(models=("m",), overrides=Limits(requests_per_minute=3)))
    grant = await table.ask()
    assert grant.limits == Limits(requests_per_minute=3, concurrent=5)
    assert (grant.plan, grant.models, grant.customer_id, grant.key_id) == ("free", ("m",), "c", "k")
    assert 900 <= grant.keep_ms <= 1000


async def test_junk_is_refused_without_a_look_up():
    """The checksum is there for that."""
    table = Table(holder())
    for junk in ("", "sk-junk", KEY[:-1] + "!", "x" * 10_000):
        with pytest.raises(TollbridgeError) as caught:
            await table.ask(api_key=junk)
        assert caught.value.code is Code.INVALID_API_KEY
    assert table.asked == []


async def test_one_look_up_tries_every_pepper():
    """Keys of before a rotation stay valid."""
    table = Table(holder())
    await table.ask()
    assert table.asked == [[api_keys.digest(KEY, PEPPERS.by_version[v]) for v in (1, 2)]]


@pytest.mark.parametrize(
    ("found", "code"),
    [
        (None, Code.INVALID_API_KEY),
        (holder(revoked_at_us=5), Code.INVALID_API_KEY),
        (holder(expires_at_us=99_000_000), Code.INVALID_API_KEY),
        (holder(status=Status.SUSPENDED), Code.CUSTOMER_SUSPENDED),
        (holder(status=Status.BANNED), Code.CUSTOMER_SUSPENDED),
        (holder(allowed_ips=("10.0.0.0/8",)), Code.ADDRESS_NOT_ALLOWED),
    ],
)
async def test_who_may_not_is_told_why(found: Holder | None, code: Code):
    """By a code of the closed list."""
    with pytest.raises(TollbridgeError) as caught:
        await Table(found).ask(client_ip="192.0.2.1")
    assert caught.value.code is code


async def test_an_answer_is_kept_under_a_second_in_all():
    """What auth kept already is taken off from what edge may keep."""
    table = Table(holder())
    await table.ask()
    table.now_s += 0.5
    grant = await table.ask()
    assert len(table.asked) == 1
    assert grant.keep_ms <= 450
    table.now_s += 0.5
    await table.ask()
    assert len(table.asked) == 2


async def test_an_answer_is_not_kept_beyond_the_keys_end():
    """A key that ends in 100 ms has an answer for 100 ms."""
    grant = await Table(holder(expires_at_us=100_100_000)).ask()
    assert grant.keep_ms <= 100


async def test_concurrent_calls_share_one_look_up_and_survive_one_that_leaves():
    """An impatient client doesn't fail the others."""
    table = Table(holder())
    table.gate.clear()
    calls = [asyncio.create_task(table.ask()) for _ in range(20)]
    await table.was_asked.wait()
    calls[0].cancel()
    table.gate.set()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert all(isinstance(r, Grant) for r in results[1:])
    assert len(table.asked) == 1


async def test_a_revocation_during_the_look_up_is_not_overwritten_by_it():
    """What was read before the change is answered once, with its short life, and never kept."""
    table = Table(holder())
    table.gate.clear()
    call = asyncio.create_task(table.ask())
    await table.was_asked.wait()
    table.kept.drop(key_id="k", customer_id="c")
    table.holder = holder(revoked_at_us=5)
    table.gate.set()
    with pytest.raises(TollbridgeError):
        await call
    assert len(table.kept) == 0


async def test_a_database_that_does_not_answer_is_a_refusal_to_try_again():
    """Nobody is let in, nothing hangs."""
    table = Table(holder())
    table.gate.clear()
    with pytest.raises(TollbridgeError) as caught:
        await table.ask()
    assert caught.value.code is Code.UNAVAILABLE
    assert caught.value.retry_after_s == 1
    await table.authorizer.close()
