"""From prices as operators write them (USD, decimals) to price versions (integer nano-USD), exactly or not at all.

A price is given in one way: a markup over the route's cost, explicit rates, or a price by the piece. What is left out
takes the rate of the class that it is a kind of (cached input costs what input costs), never zero by accident. The
classes that cost extra (an hour's cache, sound in and out) are not offered unless they are given: their rate stays 0,
and `pricing.prices.Rates` says what a provider's report of them costs all the same.
"""

import dataclasses
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Literal, TypeVar

import msgspec

from pricing.prices import PPM, PriceVersion, Rates, nano_usd
from pricing.variants import chosen, parts

Category = Literal["chat", "embedding", "image", "speech", "transcription", "video"]
MAX_CREDITS = 1_000_000
SECONDS_PER_MINUTE = 60

_NEEDED: dict[str, tuple[str, ...]] = {"chat": ("input", "output"), "embedding": ("input",)}
"""Classes that can't be guessed: without them a request would be sold, or bought, at an unknown price."""


class PriceProblem(ValueError):
    """What is wrong with a price, and at which of its keys (empty: the price itself)."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


class RateTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """USD per million tokens by class, and per piece.

    `per_image` and `per_second` may be tables by size and quality (`pricing.variants`), with a `default`.
    """

    input: Decimal | None = None
    cached_input: Decimal | None = None
    cache_write: Decimal | None = None
    cache_write_1h: Decimal | None = None
    output: Decimal | None = None
    audio_input: Decimal | None = None
    audio_output: Decimal | None = None
    image_input: Decimal | None = None
    per_request: Decimal | None = None
    per_image: Decimal | dict[str, Decimal] | None = None
    per_million_characters: Decimal | None = None
    per_minute: Decimal | None = None
    per_second: Decimal | dict[str, Decimal] | None = None


class CostSection(RateTable, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the provider takes. `reported`: its own reported cost counts, and these rates bound it."""

    reported: bool = False


Table = TypeVar("Table", bound=RateTable)


class PriceSection(RateTable, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the customer pays, in exactly one way."""

    markup: Decimal | None = None
    credits: int | None = None


_TOKENS = (
    "input",
    "cached_input",
    "cache_write",
    "cache_write_1h",
    "output",
    "audio_input",
    "audio_output",
    "image_input",
)
DEFAULT = "default"
_BY_VARIANT = ("per_image", "per_second")
_VARIANT = re.compile(r"[1-9][0-9]{1,3}x[1-9][0-9]{1,3}(/[a-z]{1,20})?|[a-z]{1,20}")
_PIECES = ("per_request", "per_image", "per_million_characters", "per_minute", "per_second")


def variant_names(*tables: RateTable | None) -> tuple[str, ...]:
    """The variants that any of the tables names, each once. Raises PriceProblem."""
    found: dict[str, None] = {}
    for table in tables:
        for key in _BY_VARIANT:
            rates = getattr(table, key, None)
            if isinstance(rates, dict):
                _check_variants(rates, key if isinstance(table, PriceSection) else f"cost.{key}")
                found |= dict.fromkeys(rates)
    found.pop(DEFAULT, None)
    return tuple(found)


def at(table: Table, name: str) -> Table:
    """The same table with one rate for each key: that of the variant of that name."""
    size, quality = parts(name)
    changes = {
        key: chosen(rates, size=size, quality=quality) or rates[DEFAULT]
        for key in _BY_VARIANT
        if isinstance(rates := getattr(table, key), dict)
    }
    return msgspec.structs.replace(table, **changes) if changes else table


def _check_variants(rates: Mapping[str, Decimal], key: str) -> None:
    if DEFAULT not in rates:
        raise PriceProblem(key, f"has no {DEFAULT}: nothing is sold at an unknown price")
    for name in rates:
        if not _VARIANT.fullmatch(name):
            raise PriceProblem(key, f"{name!r} is no SIZE/QUALITY, SIZE or QUALITY, such as 1024x1024/high")


def way_of(price: PriceSection) -> str:
    """`markup`, `explicit`, `credits` or one of the `per_…` keys. Raises PriceProblem unless it is exactly one."""
    given = [name for name in ("markup", "credits", *_PIECES) if getattr(price, name) is not None]
    if any(getattr(price, name) is not None for name in _TOKENS):
        given.append("explicit")
    if not given:
        raise PriceProblem("", "says no price: nothing is sold at an unknown price")
    if len(given) > 1:
        raise PriceProblem("", f"is given in more than one way: {', '.join(given)}")
    return given[0]


def price_version(
    price: PriceSection, cost: CostSection | None, *, category: Category, credit_value: Decimal
) -> PriceVersion:
    """The price of a model over one route. `cost` None is an unknown cost. Raises PriceProblem.

    A problem of the cost has a key that begins with `cost.`; the others are the price's.
    """
    way = way_of(price)
    known_cost = Rates() if cost is None else _cost_rates(cost, category=category, complete=way == "markup")
    if way == "markup":
        if cost is None or (known_cost == Rates() and not _all_given_zero(cost)):
            raise PriceProblem("cost", "is unknown, and the model's price is a markup over it")
        assert price.markup is not None  # way_of says so
        return PriceVersion(
            rates=known_cost, cost=known_cost, markup_ppm=_ppm(price.markup), cost_reported=cost.reported
        )
    return PriceVersion(rates=_own_rates(price, way, category=category, credit_value=credit_value), cost=known_cost)


def list_price(price: PriceSection, *, category: Category, credit_value: Decimal) -> PriceVersion | None:
    """The price of a model without routes; None for a markup over nothing. Raises PriceProblem."""
    if way_of(price) != "markup":
        return price_version(price, None, category=category, credit_value=credit_value)
    assert price.markup is not None  # way_of says so
    _ppm(price.markup)
    return None


def _own_rates(price: PriceSection, way: str, *, category: Category, credit_value: Decimal) -> Rates:
    if way == "explicit":
        return _rates(price, category=category, complete=True, prefix="")
    if way == "credits":
        assert price.credits is not None  # way_of says so
        if not 1 <= price.credits <= MAX_CREDITS:
            raise PriceProblem("credits", f"is a whole number from 1 to {MAX_CREDITS}")
        return Rates(per_request=_nano(credit_value * price.credits, "credits"))
    return _rates(price, category=category, complete=False, prefix="")


def _cost_rates(cost: CostSection, *, category: Category, complete: bool) -> Rates:
    return _rates(cost, category=category, complete=complete, prefix="cost.")


def _rates(table: RateTable, *, category: Category, complete: bool, prefix: str) -> Rates:
    by_piece = any(getattr(table, name) is not None for name in _PIECES)
    for name in _NEEDED.get(category, ()):
        if complete and not by_piece and getattr(table, name) is None:
            raise PriceProblem(f"{prefix}{name}", "is missing: nothing is sold at an unknown price")
    if table.per_minute is not None and table.per_second is not None:
        raise PriceProblem(f"{prefix}per_second", "is given beside per_minute")

    def rate(name: str, instead: int) -> int:
        amount: Decimal | None = getattr(table, name)  # tables were resolved by `at`
        return instead if amount is None else _nano(amount, prefix + name)

    plain = rate("input", 0)
    per_second = rate("per_second", 0) * SECONDS_PER_MINUTE
    try:
        return Rates(
            input=plain,
            cached_input=rate("cached_input", plain),
            cache_write=rate("cache_write", plain),
            cache_write_1h=rate("cache_write_1h", 0),
            output=rate("output", 0),
            audio_input=rate("audio_input", 0),
            audio_output=rate("audio_output", 0),
            image_input=rate("image_input", plain),
            per_request=rate("per_request", 0),
            per_image=rate("per_image", 0),
            per_million_characters=rate("per_million_characters", 0),
            per_minute=rate("per_minute", per_second),
        )
    except PriceProblem:
        raise
    except ValueError as error:
        raise PriceProblem(prefix.rstrip("."), str(error)) from error


def _all_given_zero(cost: CostSection) -> bool:
    """Whether a provider is free by its own table, as a model on one's own machine is."""
    return any(getattr(cost, name) is not None for name in (*_TOKENS, *_PIECES))


def _nano(amount: Decimal, key: str) -> int:
    if not amount.is_finite() or amount < 0:
        raise PriceProblem(key, f"{amount} is no amount of USD")
    if amount > 1_000_000:
        raise PriceProblem(key, f"{amount} USD is out of range")
    try:
        return nano_usd(amount)
    except ValueError as error:
        raise PriceProblem(key, str(error)) from error


def _ppm(markup: Decimal) -> int:
    if not markup.is_finite() or not 0 < markup <= 1000:
        raise PriceProblem("markup", f"{markup} is not above 0 and at most 1000")
    scaled = markup * PPM
    if scaled != scaled.to_integral_value():
        raise PriceProblem("markup", f"{markup} has more than six decimals")
    return int(scaled)


def content_of(price: PriceVersion) -> dict[str, object]:
    """The version's content as stored: plain data from which the same id comes again."""
    return dataclasses.asdict(price)


def from_content(content: bytes | str) -> PriceVersion:
    """The version with that stored content (JSON). Raises msgspec.ValidationError or ValueError."""
    return msgspec.json.decode(content, type=PriceVersion)
