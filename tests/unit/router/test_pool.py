"""The choice among accounts, as a pure function."""

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from pricing.prices import PriceVersion, Rates
from services.router.pool import Target, ranked
from services.router.registry import Account, Provider, Route, Timeouts

PRICE = PriceVersion(rates=Rates(), cost=Rates())


def targets_of(*routes: tuple[int, int, int]) -> list[Target]:
    """Targets of routes given as (priority, weight, number of accounts)."""
    made = []
    for index, (priority, weight, count) in enumerate(routes):
        accounts = tuple(Account(id=f"{index}-{number}", provider_id=str(index)) for number in range(count))
        provider = Provider(
            id=str(index),
            protocol="openai",
            base_url="http://127.0.0.1",
            timeouts=Timeouts(),
            on_disconnect="drain",
            drain_s=1.0,
            drain_at_once=1,
            accounts=accounts,
        )
        route = Route(
            provider=provider,
            provider_model="m",
            priority=priority,
            weight=weight,
            max_tokens_field="max_tokens",
            price=PRICE,
        )
        made += [Target(route=route, account=account) for account in accounts]
    return made


pools = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 9), st.integers(1, 3)), min_size=1, max_size=5).map(
    lambda routes: targets_of(*routes)
)


@given(candidates=pools, seed=st.integers(), resting=st.sets(st.integers(0, 14)))
def test_the_order_holds_each_usable_target_once_by_priority(
    candidates: list[Target], seed: int, resting: set[int]
) -> None:
    """Nothing usable is lost, nothing unusable is there, and no higher priority number comes before a lower."""
    out = {candidates[number].account.id for number in resting if number < len(candidates)}
    order = ranked(
        candidates, usable=lambda target: target.account.id not in out, load_of=lambda _: 0, source=random.Random(seed)
    )
    assert sorted(target.account.id for target in order) == sorted(
        target.account.id for target in candidates if target.account.id not in out
    )
    priorities = [target.route.priority for target in order]
    assert priorities == sorted(priorities)


@given(candidates=pools, seed=st.integers())
def test_the_same_source_gives_the_same_order(candidates: list[Target], seed: int) -> None:
    """The choice is deterministic but for the source handed in."""

    def order() -> list[str]:
        found = ranked(candidates, usable=lambda _: True, load_of=lambda _: 0, source=random.Random(seed))
        return [target.account.id for target in found]

    assert order() == order()


def test_weights_share_within_a_priority() -> None:
    """A route of weight 3 comes first three times as often as one of weight 1."""
    candidates, source = targets_of((1, 3, 1), (1, 1, 1), (2, 100, 1)), random.Random(7)
    first = Counter(
        ranked(candidates, usable=lambda _: True, load_of=lambda _: 0, source=source)[0].account.id for _ in range(4000)
    )
    assert first["2-0"] == 0
    assert 0.71 < first["0-0"] / 4000 < 0.79


def test_the_least_loaded_account_comes_first() -> None:
    """Within a route the account with the least load for its weight is asked first."""
    loads = {"0-0": 5, "0-1": 1, "0-2": 3}
    order = ranked(targets_of((1, 1, 3)), usable=lambda _: True, load_of=loads.__getitem__, source=random.Random(1))
    assert [target.account.id for target in order] == ["0-1", "0-2", "0-0"]
