"""The book of running attempts, which nobody may ever end."""

import dataclasses
import random

from pricing.prices import PriceVersion, Rates
from services.router.attempts import OVERDUE_S, Attempt, AttemptBook
from services.router.pool import Target
from services.router.registry import Account, Bounds, Model, Provider, Route, Timeouts

TOTAL_S, DRAIN_S = 30.0, 10.0
PRICE = PriceVersion(rates=Rates(input=1, output=1), cost=Rates(input=1, output=1))
ACCOUNT = Account(id="a1", provider_id="a")
PROVIDER = Provider(
    id="a",
    protocol="openai",
    base_url="http://127.0.0.1:9",
    timeouts=Timeouts(total_s=TOTAL_S),
    on_disconnect="drain",
    drain_s=DRAIN_S,
    drain_at_once=1,
    accounts=(ACCOUNT,),
)
ROUTE = Route(provider=PROVIDER, provider_model="m", priority=1, weight=1, max_tokens_field="max_tokens", price=PRICE)
MODEL = Model(
    id="m",
    display_name="m",
    owned_by="t",
    category="chat",
    capabilities=(),
    bounds=Bounds(),
    aliases=(),
    routes=(ROUTE,),
    list_price=None,
    credits_per_request=0,
    created_at_us=0,
)


def running(name: str, *, started_s: float) -> Attempt:
    """An attempt on the one account."""
    return Attempt(
        id=name,
        request_id="r",
        spender="s",
        model=MODEL,
        target=Target(route=ROUTE, account=ACCOUNT),
        price=PRICE,
        may_retry=False,
        first_byte_s=60.0,
        holds_slot=False,
        started_s=started_s,
    )


def test_an_attempt_whose_end_was_told_elsewhere_weighs_no_longer_than_it_can_run() -> None:
    """Its spender states to another replica: after total and drain time, and some more, its load is gone here too."""
    book = AttemptBook()
    book.begin(running("lost", started_s=0.0))
    book.begin(running("runs", started_s=100.0))
    book.drop_overdue(now_s=TOTAL_S + DRAIN_S + OVERDUE_S)
    assert book.load_of("a1") == 2
    book.drop_overdue(now_s=TOTAL_S + DRAIN_S + OVERDUE_S + 1)
    assert book.load_of("a1") == 1
    assert book.find("lost") is None
    assert book.find("runs") is not None


def test_the_order_of_begins_is_not_the_order_of_ends() -> None:
    """Routes differ in their total time: a short attempt that began later is dropped before a long one."""
    book = AttemptBook()
    long_route = dataclasses.replace(ROUTE, provider=dataclasses.replace(PROVIDER, timeouts=Timeouts(total_s=3600)))
    long = dataclasses.replace(running("long", started_s=0.0), target=Target(route=long_route, account=ACCOUNT))
    for each in (long, *(running(f"short{n}", started_s=random.Random(n).uniform(1, 5)) for n in range(3))):
        book.begin(each)
    book.drop_overdue(now_s=200.0)
    assert book.load_of("a1") == 1
    assert book.find("long") is not None
