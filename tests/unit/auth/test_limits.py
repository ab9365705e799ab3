"""Plan and overrides make the limits that hold."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.auth.limits import AS_THE_PLAN, Limits, effective, own

NAMES = ("requests_per_minute", "tokens_per_minute", "concurrent")
numbers = st.integers(0, 10**12)
limits = st.builds(
    Limits,
    requests_per_minute=numbers,
    tokens_per_minute=numbers,
    concurrent=numbers,
    scope=st.sampled_from(["key", "customer"]),
)


@given(limits)
def test_without_overrides_the_plan_holds(plan: Limits):
    """Zeros leave the plan as it is."""
    assert effective(plan=plan, overrides=AS_THE_PLAN, may_raise=True) == plan
    assert effective(plan=plan, overrides=AS_THE_PLAN, may_raise=False) == plan


@given(limits, limits)
def test_an_override_replaces_its_number_and_never_the_scope(plan: Limits, overrides: Limits):
    """A limit that a customer's keys share can't be left, raised or lowered by one of them."""
    result = effective(plan=plan, overrides=overrides, may_raise=True)
    assert result.scope == plan.scope
    for name in NAMES:
        changed = getattr(overrides, name) if plan.scope == "key" else 0
        assert getattr(result, name) == (changed or getattr(plan, name))


@given(limits, limits)
def test_an_override_of_a_customer_only_lowers(plan: Limits, overrides: Limits):
    """Unlimited is the highest of all."""
    result = effective(plan=plan, overrides=overrides, may_raise=False)
    besides = own(plan=plan, overrides=overrides)
    for name in NAMES:
        planned, wished = getattr(plan, name) or float("inf"), getattr(overrides, name) or float("inf")
        held_to = min(getattr(result, name) or float("inf"), getattr(besides, name) or float("inf"))
        assert held_to == min(planned, wished)


@given(limits, limits)
def test_a_key_has_numbers_of_its_own_besides_only_where_the_plans_are_shared(plan: Limits, overrides: Limits):
    """And only those that it can reach before what is shared."""
    besides = own(plan=plan, overrides=overrides)
    if plan.scope == "key":
        assert besides == AS_THE_PLAN
    assert besides.scope == "key"
    for name in NAMES:
        assert getattr(besides, name) in (0, getattr(overrides, name))
        assert not getattr(plan, name) or getattr(besides, name) < getattr(plan, name)


@pytest.mark.parametrize("number", [-1, 10**12 + 1])
def test_impossible_limits_are_refused(number: int):
    """Neither negative nor meaninglessly high."""
    with pytest.raises(ValueError, match="out of range"):
        Limits(tokens_per_minute=number)
