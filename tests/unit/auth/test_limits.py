"""Plan and overrides make the limits that hold."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.auth.limits import AS_THE_PLAN, Limits, effective

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
    """A limit that a customer's keys share can't be left by one of them."""
    result = effective(plan=plan, overrides=overrides, may_raise=True)
    assert result.scope == plan.scope
    for name in ("requests_per_minute", "tokens_per_minute", "concurrent"):
        assert getattr(result, name) == (getattr(overrides, name) or getattr(plan, name))


@given(limits, limits)
def test_an_override_of_a_customer_only_lowers(plan: Limits, overrides: Limits):
    """Unlimited is the highest of all."""
    result = effective(plan=plan, overrides=overrides, may_raise=False)
    assert result.scope == plan.scope
    for name in ("requests_per_minute", "tokens_per_minute", "concurrent"):
        planned, own = getattr(plan, name) or float("inf"), getattr(overrides, name) or float("inf")
        assert (getattr(result, name) or float("inf")) == min(planned, own)


@pytest.mark.parametrize("number", [-1, 10**12 + 1])
def test_impossible_limits_are_refused(number: int):
    """Neither negative nor meaninglessly high."""
    with pytest.raises(ValueError, match="out of range"):
        Limits(tokens_per_minute=number)
