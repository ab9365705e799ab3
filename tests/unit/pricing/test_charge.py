"""The charge: a sum rounded once and upwards, never negative, monotone, and never beyond what was reserved."""

import dataclasses
from fractions import Fraction

import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pricing.charge import (
    MAX_CHARGE,
    ChargeOutOfRange,
    affordable_output_tokens,
    calculation,
    charge_nano_usd,
    is_charged_as_reported,
    provider_cost_nano_usd,
    worst_case_nano_usd,
)
from pricing.prices import MAX_RATE, PPM, PriceVersion, Rates
from pricing.tokens import MAX_COUNT, Tokens, Units
from tests.unit.pricing.strategies import CLASSES, COUNTS, INPUT_CLASSES, OUTPUT_CLASSES, PIECES, prices, tokens, units

ONE = Units(requests=1)


def rate_of(rates: Rates, name: str) -> int:
    """The rate of a class; what costs extra and has none of its own costs what is dearest on its side."""
    side = INPUT_CLASSES if name in INPUT_CLASSES else OUTPUT_CLASSES
    extra = name in ("cache_write_1h", "audio_input", "audio_output")
    own: int = getattr(rates, name)
    return own if own or not extra else max(getattr(rates, each) for each in side)


def exact(used: Tokens, pieces: Units, rates: Rates, markup_ppm: int) -> Fraction:
    """The same price as a fraction, worked out in another way: each class by itself, in dollars."""
    million = Fraction(10**6)
    total = sum(Fraction(getattr(used, name)) / million * rate_of(rates, name) for name in CLASSES)
    total += Fraction(pieces.requests) * rates.per_request + Fraction(pieces.images) * rates.per_image
    total += Fraction(pieces.characters) / million * rates.per_million_characters
    total += Fraction(pieces.milliseconds, 60_000) * rates.per_minute
    return total * Fraction(markup_ppm, PPM)


@given(tokens(), units(), prices())
@settings(max_examples=100, deadline=None)
def test_equals_the_exact_fraction_rounded_up_once(used: Tokens, pieces: Units, price: PriceVersion) -> None:
    """Charge and provider's cost are the exact amounts, rounded up by less than a nano-dollar."""
    by_list = exact(used, pieces, price.rates, price.markup_ppm)
    assume(by_list <= MAX_CHARGE and exact(used, pieces, price.cost, PPM) <= MAX_CHARGE)
    charge = charge_nano_usd(used, pieces, price)
    assert type(charge) is int
    assert charge >= 0
    assert 0 <= charge - by_list < 1
    assert 0 <= provider_cost_nano_usd(used, pieces, price) - exact(used, pieces, price.cost, PPM) < 1


@given(tokens(), units(), prices(), st.sampled_from((*CLASSES, *PIECES)), st.integers(1, 10**6))
@settings(max_examples=100, deadline=None)
def test_more_of_anything_never_costs_less(
    used: Tokens, pieces: Units, price: PriceVersion, name: str, more: int
) -> None:
    """Monotone in every class and every piece."""
    more_used, more_pieces = used, pieces
    if name in PIECES:
        more_pieces = msgspec.structs.replace(pieces, **{name: getattr(pieces, name) + more})
    else:
        more_used = msgspec.structs.replace(used, **{name: getattr(used, name) + more})
    assume(exact(more_used, more_pieces, price.rates, price.markup_ppm) <= MAX_CHARGE)
    assert charge_nano_usd(used, pieces, price) <= charge_nano_usd(more_used, more_pieces, price)


@given(tokens(), prices(), st.sampled_from(CLASSES), st.integers(0, 10**6))
@settings(max_examples=100, deadline=None)
def test_splitting_never_costs_less(used: Tokens, price: PriceVersion, name: str, part: int) -> None:
    """Two requests for the parts cost at least one for the whole, and at most one nano-dollar more."""
    assume(part <= getattr(used, name))
    assume(exact(used, Units(), price.rates, price.markup_ppm) <= MAX_CHARGE)
    rest = msgspec.structs.replace(used, **{name: getattr(used, name) - part}, reasoning=0)
    whole = charge_nano_usd(used, Units(), price)
    parts = charge_nano_usd(rest, Units(), price) + charge_nano_usd(Tokens(**{name: part}), Units(), price)
    assert whole <= parts <= whole + 1


@given(tokens(), prices(reported=None), st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**12))
@settings(max_examples=100, deadline=None)
def test_worst_case_covers_any_charge_within_its_bounds(
    used: Tokens, price: PriceVersion, more_input: int, more_output: int, reported: int
) -> None:
    """Whatever classes the tokens turn out to be in, and whatever cost is reported, what was reserved suffices."""
    try:
        worst = worst_case_nano_usd(
            price, input_tokens=used.prompt + more_input, output_tokens=used.completion + more_output
        )
    except ChargeOutOfRange:
        return
    assert charge_nano_usd(used, ONE, price) <= worst
    assert charge_nano_usd(used, ONE, price, reported_cost_nano_usd=reported) <= worst


@given(prices(), st.sampled_from(INPUT_CLASSES), st.sampled_from(OUTPUT_CLASSES), COUNTS, COUNTS)
@settings(max_examples=100, deadline=None)
def test_worst_case_is_reached(price: PriceVersion, source: str, target: str, more: int, out: int) -> None:
    """When all tokens are in the dearest classes, the charge is the worst case: nothing is reserved for nothing."""
    assume(getattr(price.rates, source) == price.rates.dearest_input)
    assume(getattr(price.rates, target) == price.rates.dearest_output)
    used = Tokens(**{source: more, target: out})
    assume(exact(used, ONE, price.rates, price.markup_ppm) <= MAX_CHARGE)
    assert worst_case_nano_usd(price, input_tokens=more, output_tokens=out) == charge_nano_usd(used, ONE, price)


@given(prices(), st.integers(0, MAX_CHARGE), COUNTS)
@settings(max_examples=100, deadline=None)
def test_affordable_output_is_tight(price: PriceVersion, available: int, source: int) -> None:
    """What is affordable can be paid, one token more can't, and -1 means that not even the input can."""
    most = affordable_output_tokens(price, available_nano_usd=available, input_tokens=source)

    def worst(output: int) -> int:
        try:
            return worst_case_nano_usd(price, input_tokens=source, output_tokens=output)
        except ChargeOutOfRange:
            return MAX_CHARGE + 1

    if most == -1:
        assert worst(0) > available
    elif price.rates.dearest_output == 0 or price.markup_ppm == 0:
        assert most == MAX_COUNT
        assert worst(most) <= available
    else:
        assert worst(most) <= available
        assert most == MAX_COUNT or worst(most + 1) > available


def test_negative_balances_afford_nothing() -> None:
    """Not even a request without a price runs on a debt."""
    dear = PriceVersion(rates=Rates(input=1, output=1), cost=Rates())
    free = PriceVersion(rates=Rates(), cost=Rates())
    for price in (dear, free):
        assert affordable_output_tokens(price, available_nano_usd=-1, input_tokens=0) == -1


@given(prices(reported=True), tokens(), units(), st.integers(0, MAX_CHARGE))
@settings(max_examples=100, deadline=None)
def test_reported_cost_is_charged_with_markup_but_not_beyond_the_list(
    price: PriceVersion, used: Tokens, pieces: Units, reported: int
) -> None:
    """The provider's own cost × markup, rounded up, unless the list price is lower."""
    by_list = exact(used, pieces, price.rates, price.markup_ppm)
    assume(by_list <= MAX_CHARGE)
    charge = charge_nano_usd(used, pieces, price, reported_cost_nano_usd=reported)
    wanted = Fraction(reported * price.markup_ppm, PPM)
    assert 0 <= charge - min(wanted, by_list) < 1
    assert charge_nano_usd(used, pieces, price) - by_list < 1
    if is_charged_as_reported(used, pieces, price, reported_cost_nano_usd=reported):
        assert 0 <= charge - wanted < 1
    else:
        assert charge == charge_nano_usd(used, pieces, price)
    assert not is_charged_as_reported(used, pieces, price, reported_cost_nano_usd=None)


def test_a_reported_cost_counts_only_where_the_price_says_so() -> None:
    """With a fixed price the provider's report changes nothing; without a report the list counts."""
    used = Tokens(input=1000)
    fixed = PriceVersion(rates=Rates(input=10**9), cost=Rates())
    assert charge_nano_usd(used, ONE, fixed, reported_cost_nano_usd=1) == 10**6
    reported = dataclasses.replace(fixed, cost_reported=True, markup_ppm=1_300_000)
    assert charge_nano_usd(used, ONE, reported, reported_cost_nano_usd=7) == 10
    assert charge_nano_usd(used, ONE, reported, reported_cost_nano_usd=0) == 0
    assert charge_nano_usd(used, ONE, reported) == 1_300_000


def test_extremes_are_refused_never_wrapped() -> None:
    """Charges beyond the bound, negative bounds and negative reports raise."""
    price = PriceVersion(rates=Rates(input=MAX_RATE, output=MAX_RATE), cost=Rates(input=MAX_RATE), cost_reported=True)
    huge = Tokens(input=MAX_COUNT, output=MAX_COUNT)
    with pytest.raises(ChargeOutOfRange):
        charge_nano_usd(huge, ONE, price)
    with pytest.raises(ChargeOutOfRange):
        provider_cost_nano_usd(huge, ONE, price)
    with pytest.raises(ChargeOutOfRange):
        worst_case_nano_usd(price, input_tokens=MAX_COUNT, output_tokens=0)
    with pytest.raises(ChargeOutOfRange):
        charge_nano_usd(Tokens(), ONE, price, reported_cost_nano_usd=-1)
    for source, out in ((-1, 0), (0, -1), (-5, 10**6)):
        with pytest.raises(ChargeOutOfRange):
            worst_case_nano_usd(price, input_tokens=source, output_tokens=out)
    with pytest.raises(ChargeOutOfRange):
        affordable_output_tokens(price, available_nano_usd=10**9, input_tokens=-10)


@given(prices(), st.sampled_from(("cache_write_1h", "audio_input", "audio_output")), st.integers(1, 10**6))
@settings(max_examples=100, deadline=None)
def test_a_token_that_costs_extra_never_costs_less_than_a_plain_one(price: PriceVersion, name: str, count: int) -> None:
    """Without a rate of its own it costs the dearest of its side: never nothing, never more than was reserved."""
    price = dataclasses.replace(price, rates=dataclasses.replace(price.rates, **{name: 0}))
    plain = Tokens(output=count) if name == "audio_output" else Tokens(input=count)
    charge = charge_nano_usd(Tokens(**{name: count}), ONE, price)
    assert charge >= charge_nano_usd(plain, ONE, price)
    assert charge == worst_case_nano_usd(price, input_tokens=plain.prompt, output_tokens=plain.completion)


@given(tokens(), units(), prices())
@settings(max_examples=100, deadline=None)
def test_classes_sum(used: Tokens, pieces: Units, price: PriceVersion) -> None:
    """A use is charged what its classes are charged each by itself, but for the one rounding."""
    assume(exact(used, pieces, price.rates, price.markup_ppm) <= MAX_CHARGE)
    each = [charge_nano_usd(Tokens(**{name: getattr(used, name)}), Units(), price) for name in CLASSES]
    whole = charge_nano_usd(used, Units(), price)
    assert whole <= sum(each) <= whole + len(CLASSES) - 1
    assert used.prompt + used.completion == sum(getattr(used, name) for name in CLASSES)


def test_the_worked_example() -> None:
    """A thousand tokens in, five hundred out, at 0.27 and 1.10 USD per million with a markup of 1.3."""
    price = PriceVersion(rates=Rates(input=270_000_000, output=1_100_000_000), cost=Rates(), markup_ppm=1_300_000)
    # (1000 × 0.27 + 500 × 1.10) / 1e6 × 1.3 = 0.001066 USD
    assert charge_nano_usd(Tokens(input=1000, output=500), ONE, price) == 1_066_000


@given(tokens(), units(), prices(), st.none() | st.integers(0, 10**15))
@settings(max_examples=100)
def test_a_shown_calculation_makes_the_charge(used, pieces, price, reported):
    """What a receipt explains is what was charged, to the nano-dollar."""
    try:
        charge = charge_nano_usd(used, pieces, price, reported_cost_nano_usd=reported)
    except ChargeOutOfRange:
        assume(False)
    shown = calculation(used, pieces, price, reported_cost_nano_usd=reported)
    assert shown.charge_nano_usd == charge
    by_report = is_charged_as_reported(used, pieces, price, reported_cost_nano_usd=reported)
    assert shown.as_reported == by_report
