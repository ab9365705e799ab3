"""Which provider account gets the next attempt: a pure choice over what is known now.

Lower priority numbers first; within one priority the routes share by weight; within one route the account with the
least load for its weight. The whole order comes back, so that a caller who finds the first one full takes the next.
"""

import dataclasses
import random
from collections.abc import Callable, Iterable, Sequence

from services.router.registry import Account, Model, Route


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One account on one route."""

    route: Route
    account: Account


def targets(model: Model) -> tuple[Target, ...]:
    """Everything that could serve this model, in the config's order."""
    return tuple(Target(route=route, account=account) for route in model.routes for account in route.provider.accounts)


def ranked(
    candidates: Iterable[Target],
    *,
    usable: Callable[[Target], bool],
    load_of: Callable[[str], int],
    source: random.Random,
) -> tuple[Target, ...]:
    """The usable candidates, best first; an account that two routes reach is there once per route.

    `load_of` gives running attempts of an account id. The same source in the same state gives the same order.
    """
    routes: dict[int, list[list[Target]]] = {}
    by_route: dict[int, list[Target]] = {}
    for target in candidates:
        if not usable(target):
            continue
        group = by_route.get(id(target.route))
        if group is None:
            group = by_route[id(target.route)] = []
            routes.setdefault(target.route.priority, []).append(group)
        group.append(target)
    order: list[Target] = []
    for priority in sorted(routes):
        for group in _shared_by_weight(routes[priority], source):
            order += _least_loaded_first(group, load_of, source)
    return tuple(order)


def _shared_by_weight(groups: Sequence[list[Target]], source: random.Random) -> Sequence[list[Target]]:
    """A random order in which each route comes first as often as its weight says."""
    if len(groups) == 1:
        return groups
    # the smallest of exponential draws with these rates is each one's with the probability of its share
    return sorted(groups, key=lambda group: source.expovariate(group[0].route.weight))


def _least_loaded_first(
    group: Sequence[Target], load_of: Callable[[str], int], source: random.Random
) -> Sequence[Target]:
    if len(group) == 1:
        return group

    def rank(target: Target) -> tuple[float, float]:
        account = target.account
        return (load_of(account.id) + 1) / account.weight, source.random()

    return sorted(group, key=rank)
