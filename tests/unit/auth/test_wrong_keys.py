"""What guessing keys costs: nothing but a few look-ups a minute, and those who have a good key don't notice."""

import asyncio
from collections.abc import Iterable

import pytest

from chassis.errors import Code, TollbridgeError
from services.auth import api_keys
from services.auth.authorize import Authorizer
from services.auth.config import AuthConfig
from services.auth.customers import Customer
from services.auth.kept_keys import Holder, KeptKeys
from services.auth.key_terms import ApiKey, KeyTerms
from services.auth.wrong_keys import AT_ONCE, FAILED_AT_MOST, MAX_NETWORKS, WrongKeys, network
from tests.unit.auth.replica import Replica

PEPPERS = api_keys.Peppers.parse("1:" + "11" * 16)
GOOD = Holder(
    ApiKey(id="k", customer_id="c", shown_prefix="tb_live_abcd", terms=KeyTerms(), created_at_us=1),
    Customer(id="c", name="n"),
)
HERE, THERE = "192.0.2.1", "192.0.2.2"


def key(number: int) -> str:
    return api_keys.mint(prefix="tb_live_", seed=number.to_bytes(32), pepper=PEPPERS.by_version[1])


class Door:
    """An Authorizer over a table of good keys, and how often that was looked into."""

    def __init__(self, good: Iterable[str] = ()) -> None:
        self.good = {api_keys.digest(each, PEPPERS.by_version[1]) for each in good}
        self.look_ups = self.running = self.most = 0
        self.now_s = 100.0
        self.wrong = WrongKeys()
        self.authorizer = Authorizer(
            find=self.find,
            peppers=PEPPERS,
            config=AuthConfig,
            kept=KeptKeys(),
            wrong=self.wrong,
            clock_s=lambda: self.now_s,
        )

    async def find(self, digests: list[bytes]) -> Holder | None:
        self.look_ups += 1
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(0)
        self.running -= 1
        return GOOD if self.good & set(digests) else None

    async def ask(self, number: int, client_ip: str = HERE) -> TollbridgeError | None:
        try:
            await self.authorizer.authorize(api_key=key(number), client_ip=client_ip)
        except TollbridgeError as error:
            return error
        return None

    async def codes(self, numbers: Iterable[int], client_ip: str = HERE) -> list[Code | None]:
        found = await asyncio.gather(*(self.ask(number, client_ip) for number in numbers))
        return [None if one is None else one.code for one in found]


async def test_an_address_gets_twenty_failed_look_ups_a_minute_also_at_once() -> None:
    """The others are refused without a look-up, and told truly when one may be made again."""
    door = Door()
    codes = await door.codes(range(200))
    assert codes.count(Code.INVALID_API_KEY) == door.look_ups == FAILED_AT_MOST
    assert codes.count(Code.RATE_LIMIT_EXCEEDED) == 180 == door.wrong.refused
    door.now_s += 20
    error = await door.ask(500)
    assert error is not None
    assert error.retry_after_s == 40
    door.now_s += 40
    assert (await door.codes([501])) == [Code.INVALID_API_KEY]
    assert door.look_ups == FAILED_AT_MOST + 1


async def test_another_address_is_let_try() -> None:
    """Whoever guesses spoils it for their own address alone."""
    door = Door(good=[key(7)])
    await door.codes(range(100, 200))
    assert await door.codes([7], THERE) == [None]
    assert await door.codes([8], THERE) == [Code.INVALID_API_KEY]


async def test_a_key_that_was_good_goes_on_where_others_guess() -> None:
    """Also after its kept answer has gone; when it is good no more it is a key like any other."""
    door = Door(good=[key(7)])
    assert await door.codes([7]) == [None]
    await door.codes(range(100, 200))
    door.now_s += 5
    assert await door.codes([7]) == [None]
    door.good.clear()
    door.now_s += 5
    assert await door.codes([7]) == [Code.INVALID_API_KEY]
    assert await door.codes([9]) == [Code.RATE_LIMIT_EXCEEDED]


async def test_a_crowd_of_good_keys_behind_one_address_is_let_in() -> None:
    """They wait for each other rather than being taken for guesses."""
    door = Door(good=map(key, range(100)))
    assert await door.codes(range(100)) == [None] * 100
    assert door.most == AT_ONCE


async def test_the_same_wrong_key_costs_one_look_up_a_second() -> None:
    """However often it is shown, from wherever."""
    door = Door()
    assert await door.codes([1] * 50) == [Code.INVALID_API_KEY] * 50
    assert await door.codes([1], THERE) == [Code.INVALID_API_KEY]
    assert door.look_ups == 1
    door.now_s += 1
    await door.codes([1])
    assert door.look_ups == 2


async def test_those_who_leave_before_the_answer_are_counted() -> None:
    """A look-up counts for its address although nobody waits for it."""
    door = Door()
    for number in range(100):
        asking = asyncio.create_task(door.ask(number))
        await asyncio.sleep(0)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    await asyncio.gather(*door.authorizer._running.values(), return_exceptions=True)
    assert door.look_ups <= FAILED_AT_MOST
    assert await door.codes([900]) == [Code.RATE_LIMIT_EXCEEDED]


async def test_memory_is_bounded() -> None:
    """The addresses that asked longest ago go first."""
    wrong = WrongKeys()
    for number in range(MAX_NETWORKS + 100):
        async with wrong.place(str(number), clock_s=lambda: 1.0):
            pass
    assert len(wrong._askers) == MAX_NETWORKS


@pytest.mark.parametrize(
    ("address", "counts_as"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::", "2001:db8:1:2::/64"),
        ("", ""),
        ("unix:", ""),
    ],
)
def test_an_ipv6_customer_counts_as_one_address(address: str, counts_as: str) -> None:
    """Somebody with a whole network of addresses is still one."""
    assert network(address) == counts_as


async def test_refusing_a_guess_does_not_touch_the_database(replica: Replica) -> None:
    """Over gRPC and with a real PostgreSQL: no connection is taken."""
    customer = await replica.new_customer()
    made = await replica.new_key(customer_id=customer.id)
    await replica.authorize(made.secret, client_ip=HERE)
    guess = [api_keys.mint(prefix="tb_live_", seed=number.to_bytes(32), pepper=b"x" * 32) for number in range(200)]
    codes = [await _code(replica, each) for each in guess[:FAILED_AT_MOST]]
    assert codes == [Code.INVALID_API_KEY] * FAILED_AT_MOST
    before = replica.parts.authorizer.looked_up
    assert {await _code(replica, each) for each in guess[FAILED_AT_MOST:]} == {Code.RATE_LIMIT_EXCEEDED}
    assert replica.parts.authorizer.looked_up == before
    assert (await replica.authorize(made.secret, client_ip=HERE)).key_id == made.key.id


async def _code(replica: Replica, secret: str) -> Code:
    with pytest.raises(TollbridgeError) as caught:
        await replica.authorize(secret, client_ip=HERE)
    if caught.value.code is Code.RATE_LIMIT_EXCEEDED:
        assert caught.value.retry_after_s is not None
        assert 0 < caught.value.retry_after_s <= 60
    return caught.value.code
