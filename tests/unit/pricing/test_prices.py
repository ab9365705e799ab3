"""Price versions and amounts: content names them, and text says exactly what the integer is."""

import dataclasses
import json
import re
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pricing.prices import MAX_RATE, PPM, PriceVersion, Rates, nano_usd, usd_number, usd_text
from tests.unit.pricing.strategies import prices

AMOUNTS = st.integers(-(2**63), 2**63 - 1)


@given(AMOUNTS)
@settings(max_examples=100)
def test_texts_round_trip_in_plain_notation(amount: int) -> None:
    """Both forms are plain decimals that give the same amount back; the number is also JSON."""
    text, number = usd_text(amount), usd_number(amount)
    assert re.fullmatch(r"-?\d+\.\d{9}", text)
    assert re.fullmatch(r"-?(0|[1-9]\d*)(\.\d{0,8}[1-9])?", number)
    assert nano_usd(text) == nano_usd(number) == nano_usd(Decimal(text)) == amount
    assert json.loads(number, parse_float=Decimal, parse_int=Decimal) * 10**9 == amount


def test_texts_as_the_contract_shows_them() -> None:
    """The documents' own examples."""
    assert usd_text(4_123_456_789) == "4.123456789"
    assert usd_text(0) == "0.000000000"
    assert usd_text(-1) == "-0.000000001"
    assert usd_number(9_800) == "0.0000098"
    assert usd_number(0) == "0"
    assert usd_number(10 * 10**9) == "10"
    assert usd_number(100) == "0.0000001"


@pytest.mark.parametrize(
    "amount", ["0.0000000001", "NaN", "Infinity", "-Infinity", "sNaN", "", "abc", "1e-10", "1e999999", "1e40", "٣"]
)
def test_amounts_that_are_no_amounts_are_refused(amount: str) -> None:
    """Finer than a nano-dollar, not finite, beyond any account, or not a number in plain digits: ValueError."""
    with pytest.raises(ValueError):  # noqa: PT011  # the promise is the type
        nano_usd(amount)


def test_amounts_are_exact_however_long() -> None:
    """No digit is rounded away before it is looked at."""
    assert nano_usd("1234567890.123456789") == 1_234_567_890_123_456_789
    for amount in ("0.1000000000000000000000000000000000000001", "123456789.0000000000000000000000001"):
        with pytest.raises(ValueError, match="nano-dollars"):
            nano_usd(amount)
    assert nano_usd(3) == 3 * 10**9
    assert nano_usd("-9223372036.854775808") == -(2**63)
    with pytest.raises(ValueError, match="range"):
        nano_usd("9223372036.854775808")
    assert nano_usd("1.50") == 1_500_000_000


@given(prices(reported=None), prices(reported=None))
@settings(max_examples=60)
def test_an_id_names_a_content(one: PriceVersion, other: PriceVersion) -> None:
    """Same content, same id; any difference, another id."""
    assert one.id == dataclasses.replace(one).id
    assert (one.id == other.id) == (one == other)
    assert re.fullmatch(r"[0-9a-f]{64}", one.id)
    assert dataclasses.replace(one, cost_reported=not one.cost_reported).id != one.id


def test_ids_never_change() -> None:
    """A stored id must be found again by any later version of this code."""
    price = PriceVersion(rates=Rates(input=270_000_000, output=1_100_000_000), cost=Rates(), markup_ppm=1_300_000)
    assert price.id == "ac01e6f3999167685ec371d5622d2368830f449baac80874a4ef767091dce5d7"


@pytest.mark.parametrize("rate", [-1, MAX_RATE + 1, 1.0, True, "1", None])
@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Rates)])
def test_rates_out_of_range_are_refused(name: str, rate: object) -> None:
    """Negative, absurd and non-integer rates never become a price."""
    with pytest.raises(ValueError, match=name):
        Rates(**{name: rate})  # type: ignore[arg-type]  # that is the point


@pytest.mark.parametrize("markup", [-1, 1000 * PPM + 1, 1.3, True])
def test_markups_out_of_range_are_refused(markup: object) -> None:
    """A markup is a whole number of millionths up to a thousandfold."""
    with pytest.raises(ValueError, match="markup"):
        PriceVersion(rates=Rates(), cost=Rates(), markup_ppm=markup)  # type: ignore[arg-type]  # that is the point


@given(prices())
@settings(max_examples=60)
def test_dearest_rates_bound_every_class(price: PriceVersion) -> None:
    """No class of input or output is dearer than the dearest."""
    rates = price.rates
    assert rates.dearest_input == max(
        rates.input, rates.cached_input, rates.cache_write, rates.cache_write_1h, rates.audio_input, rates.image_input
    )
    assert rates.dearest_output == max(rates.output, rates.audio_output)
