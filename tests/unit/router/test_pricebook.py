"""Prices as written become price versions exactly, or are refused."""

from decimal import Decimal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pricing.charge import charge_nano_usd
from pricing.tokens import Tokens, Units
from services.router.pricebook import (
    CostSection,
    PriceProblem,
    PriceSection,
    content_of,
    from_content,
    list_price,
    price_version,
)

CREDIT = Decimal("0.01")
nano = st.integers(0, 10**12).map(lambda n: Decimal(n).scaleb(-9))
ppm = st.integers(1, 10**7).map(lambda n: Decimal(n).scaleb(-6))


@given(rate_in=nano, rate_out=nano, markup=ppm, used=st.integers(0, 10**6))
def test_a_markup_charges_what_the_decimals_say_rounded_up_once(
    rate_in: Decimal, rate_out: Decimal, markup: Decimal, used: int
) -> None:
    """Charge = ceil(tokens × USD rate × markup) in nano-USD, computed here with decimals."""
    version = price_version(
        PriceSection(markup=markup),
        CostSection(input=rate_in, output=rate_out),
        category="chat",
        credit_value=CREDIT,
    )
    charge = charge_nano_usd(Tokens(input=used, output=used), Units(requests=1), version)
    exact = used * (rate_in + rate_out) * markup * 1000  # USD per million tokens to nano-USD
    assert exact <= charge < exact + 1


@given(rate=nano)
def test_what_is_left_out_costs_what_it_is_a_kind_of(rate: Decimal) -> None:
    """Cached input, cache writes and images cost what input does."""
    version = price_version(
        PriceSection(input=rate, output=rate + 1),
        None,
        category="chat",
        credit_value=CREDIT,
    )
    rates = version.rates
    assert rates.input == rates.cached_input == rates.cache_write == rates.image_input == int(rate.scaleb(9))
    assert rates.output == rates.input + 10**9


@given(rate=nano, given_rate=nano.filter(bool))
def test_what_costs_extra_has_only_the_rate_that_it_is_given(rate: Decimal, given_rate: Decimal) -> None:
    """An hour's cache and sound are unpriced, so not offered, unless the price book says what they cost."""
    plain = PriceSection(input=rate, output=rate + 1, cache_write=rate + 2)
    for name in ("cache_write_1h", "audio_input", "audio_output"):
        for price, expected in ((plain, 0), (msgspec.structs.replace(plain, **{name: given_rate}), given_rate)):
            rates = price_version(price, None, category="chat", credit_value=CREDIT).rates
            assert getattr(rates, name) == expected * 10**9


@given(rate=nano, markup=ppm)
def test_a_stored_version_comes_back_with_its_id(rate: Decimal, markup: Decimal) -> None:
    """What the database keeps hashes to the id under which it is kept."""
    version = price_version(
        PriceSection(markup=markup),
        CostSection(input=rate, output=rate, reported=True),
        category="chat",
        credit_value=CREDIT,
    )
    again = from_content(msgspec.json.encode(content_of(version)))
    assert again == version
    assert again.cost_reported
    assert again.id == version.id


@pytest.mark.parametrize(
    ("price", "field", "nano_usd"),
    [
        (PriceSection(per_request=Decimal("0.03")), "per_request", 30_000_000),
        (PriceSection(credits=3), "per_request", 30_000_000),
        (PriceSection(per_image=Decimal("0.02")), "per_image", 20_000_000),
        (PriceSection(per_million_characters=Decimal(15)), "per_million_characters", 15_000_000_000),
        (PriceSection(per_minute=Decimal("0.006")), "per_minute", 6_000_000),
        (PriceSection(per_second=Decimal("0.10")), "per_minute", 6_000_000_000),
    ],
)
def test_a_price_by_the_piece_fills_its_one_rate(price: PriceSection, field: str, nano_usd: int) -> None:
    """One rate is set, the others are zero, and no cost needs to be known."""
    version = list_price(price, category="image", credit_value=CREDIT)
    assert version is not None
    rates = content_of(version)["rates"]
    assert isinstance(rates, dict)
    assert {name: rate for name, rate in rates.items() if rate} == {field: nano_usd}
    assert version.markup_ppm == 1_000_000


def test_a_free_provider_is_known_to_be_free() -> None:
    """Zero written down is a cost; nothing written down is not."""
    free = CostSection(input=Decimal(0), output=Decimal(0))
    assert price_version(PriceSection(markup=Decimal(2)), free, category="chat", credit_value=CREDIT).rates.input == 0
    for unknown in (None, CostSection()):
        with pytest.raises(PriceProblem):
            price_version(PriceSection(markup=Decimal(2)), unknown, category="image", credit_value=CREDIT)
