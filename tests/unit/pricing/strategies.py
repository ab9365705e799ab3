"""Token counts, rates and prices for the property tests."""

from hypothesis import strategies as st

from pricing.prices import PPM, PriceVersion, Rates
from pricing.tokens import Tokens, Units

COUNTS = st.one_of(st.integers(0, 50), st.integers(0, 10**7))
RATES = st.one_of(st.just(0), st.integers(1, 1000), st.integers(1, 10**11))
MARKUPS = st.one_of(st.sampled_from([0, 1, PPM, 1_300_000]), st.integers(0, 1000 * PPM))

INPUT_CLASSES = ("input", "cached_input", "cache_write", "cache_write_1h", "audio_input", "image_input")
OUTPUT_CLASSES = ("output", "audio_output")
CLASSES = INPUT_CLASSES + OUTPUT_CLASSES
PIECES = {
    "requests": "per_request",
    "images": "per_image",
    "characters": "per_million_characters",
    "milliseconds": "per_minute",
}


@st.composite
def tokens(draw: st.DrawFn) -> Tokens:
    """Any plausible use."""
    counts = {name: draw(COUNTS) for name in CLASSES}
    return Tokens(**counts, reasoning=draw(st.integers(0, counts["output"])))


@st.composite
def units(draw: st.DrawFn) -> Units:
    """Any plausible pieces."""
    return Units(**{name: draw(st.integers(0, 10**5)) for name in PIECES})


@st.composite
def rates(draw: st.DrawFn) -> Rates:
    """Any rates, some of them zero."""
    return Rates(**{name: draw(RATES) for name in (*CLASSES, *PIECES.values())})


@st.composite
def prices(draw: st.DrawFn, *, reported: bool | None = False) -> PriceVersion:
    """Any price version; `reported` None draws that too."""
    return PriceVersion(
        rates=draw(rates()),
        cost=draw(rates()),
        markup_ppm=draw(MARKUPS),
        cost_reported=draw(st.booleans()) if reported is None else reported,
    )
