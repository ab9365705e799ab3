"""I10 and I11 where they are decided: a charge is believed only as the sum of possible counts at the named price."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chassis.ids import unix_ms, uuid7
from pricing.charge import MAX_CHARGE, ChargeOutOfRange, charge_nano_usd
from pricing.prices import PriceVersion, Rates
from pricing.tokens import MAX_COUNT, Tokens, Units
from services.billing import charges
from services.billing.ledger import Poison
from tollbridge.usage.v1 import usage_pb2

CLASSES = Tokens.__struct_fields__
COUNTS = st.one_of(st.integers(0, 100), st.integers(0, MAX_COUNT))
RATES = st.builds(
    Rates, input=st.integers(0, 10**11), output=st.integers(0, 10**11), cached_input=st.integers(0, 10**9)
)
PRICES = st.builds(PriceVersion, rates=RATES, cost=st.just(Rates()), markup_ppm=st.integers(1, 3_000_000))
ANY_INT64 = st.integers(-(2**63), 2**63 - 1)


def _event(tokens: dict[str, int], price: PriceVersion, charge: int) -> usage_pb2.UsageRecorded:
    return usage_pb2.UsageRecorded(
        event_id=str(uuid7()),
        request_id=str(uuid7()),
        kind=usage_pb2.USAGE_KIND_CHARGE,
        customer_id="c",
        price_version=price.id,
        tokens=usage_pb2.Tokens(**tokens),
        charge_nano_usd=charge,
        provider_reported_cost_nano_usd=-1,
        model="m",
    )


def _check(event: usage_pb2.UsageRecorded, price: PriceVersion) -> int:
    within = charges.window(now_ms=unix_ms(uuid7()), kept_days=400)
    return charges.check(event, price, within=within).charge_nano_usd


@given(input_=COUNTS, cached=COUNTS, output=COUNTS, started=PRICES, changed=PRICES)
def test_a_request_is_charged_by_the_price_that_it_began_with(
    input_: int, cached: int, output: int, started: PriceVersion, changed: PriceVersion
):
    """I11: the version that the event names is what its charge must be; a newer one's charge is poison."""
    tokens = {"input": input_, "cached_input": cached, "output": output}
    try:
        charge, other = (charge_nano_usd(Tokens(**tokens), Units(), price) for price in (started, changed))
    except ChargeOutOfRange:
        return
    event = _event(tokens, started, charge)
    assert charges.wanted_price(event) == started.id
    assert _check(event, started) == charge
    if other != charge:
        with pytest.raises(Poison):
            _check(_event(tokens, started, other), started)


@given(counts=st.fixed_dictionaries(dict.fromkeys(CLASSES, ANY_INT64)), charge=ANY_INT64, price=PRICES)
def test_counts_of_any_size_are_charged_exactly_or_refused(counts: dict[str, int], charge: int, price: PriceVersion):
    """I10: no count and no charge that 64 bits can hold is wrapped, clipped or repaired."""
    try:
        believed = _check(_event(counts, price, charge), price)
    except Poison:
        return
    assert all(0 <= count <= MAX_COUNT for count in counts.values())
    assert believed == charge == charge_nano_usd(Tokens(**counts), Units(), price) <= MAX_CHARGE


@given(name=st.sampled_from(CLASSES), count=st.one_of(st.integers(-(2**63), -1), st.integers(MAX_COUNT + 1, 2**63 - 1)))
def test_one_impossible_count_poisons_the_event(name: str, count: int):
    """Whichever class it is in, and though a price of nothing would make it cost nothing."""
    price = PriceVersion(rates=Rates(), cost=Rates())
    with pytest.raises(Poison, match="impossible counts"):
        _check(_event({name: count}, price, 0), price)
