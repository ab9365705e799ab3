"""From use and price to a charge: one sum, one rounding, upwards.

charge = ceil(Σ count × rate × markup_ppm / 1e12), over token classes and pieces together. Everything is an integer of
any size until the end, so nothing overflows; a result beyond MAX_CHARGE is refused, never wrapped.
"""

import dataclasses

from pricing.prices import PPM, PriceVersion, Rates
from pricing.tokens import MAX_COUNT, Tokens, Units

MAX_CHARGE = 1 << 53
"""Nine million USD for one request: beyond it something is broken, and JSON readers stay exact below it."""

_MILLION = 1_000_000
_MS_PER_MINUTE = 60_000
_PER_PIECE = _MILLION * _MS_PER_MINUTE
_SCALE = _PER_PIECE * PPM
"""Denominator of every sum below: rates are per million, the markup in millionths, durations in minutes."""


class ChargeOutOfRange(ValueError):
    """A charge that no request can have."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Calculation:
    """How a charge comes about: `numerator` / `denominator` nano-USD, before the one rounding."""

    numerator: int
    denominator: int
    as_reported: bool
    """Whether it goes by the provider's reported cost, not by the list price."""

    @property
    def charge_nano_usd(self) -> int:
        """The charge: rounded upwards."""
        return -(-self.numerator // self.denominator)


def calculation(
    tokens: Tokens, units: Units, price: PriceVersion, *, reported_cost_nano_usd: int | None = None
) -> Calculation:
    """How `charge_nano_usd` comes to its result, for receipts. Raises ChargeOutOfRange as it does."""
    charge_nano_usd(tokens, units, price, reported_cost_nano_usd=reported_cost_nano_usd)
    as_reported = is_charged_as_reported(tokens, units, price, reported_cost_nano_usd=reported_cost_nano_usd)
    if as_reported and reported_cost_nano_usd is not None:
        return Calculation(numerator=reported_cost_nano_usd * price.markup_ppm, denominator=PPM, as_reported=True)
    numerator = _sum(tokens, units, price.rates) * price.markup_ppm
    return Calculation(numerator=numerator, denominator=_SCALE, as_reported=False)


def charge_nano_usd(
    tokens: Tokens, units: Units, price: PriceVersion, *, reported_cost_nano_usd: int | None = None
) -> int:
    """What the customer pays for one request, in nano-USD.

    With `price.cost_reported` and a reported cost, that cost × markup, but never more than the list price of the same
    use (which is what was reserved). Raises ChargeOutOfRange.
    """
    by_list = _rounded_up(tokens, units, price.rates, price.markup_ppm)
    if not price.cost_reported or reported_cost_nano_usd is None:
        return by_list
    if reported_cost_nano_usd < 0:
        raise ChargeOutOfRange(f"reported cost is negative: {reported_cost_nano_usd}")
    return min(by_list, -(-reported_cost_nano_usd * price.markup_ppm // PPM))


def is_charged_as_reported(
    tokens: Tokens, units: Units, price: PriceVersion, *, reported_cost_nano_usd: int | None
) -> bool:
    """Whether the charge comes from the reported cost.

    False for a price that doesn't go by it, and where the list price stands in: nothing was reported, or more than the
    list price of the same use. Raises ChargeOutOfRange.
    """
    if not price.cost_reported or reported_cost_nano_usd is None:
        return False
    by_list = _rounded_up(tokens, units, price.rates, price.markup_ppm)
    return reported_cost_nano_usd * price.markup_ppm <= by_list * PPM


def provider_cost_nano_usd(tokens: Tokens, units: Units, price: PriceVersion) -> int:
    """What the provider takes for one request by the route's cost table, in nano-USD. Raises ChargeOutOfRange."""
    return _rounded_up(tokens, units, price.cost, PPM)


def worst_case_nano_usd(
    price: PriceVersion, *, input_tokens: int, output_tokens: int, units: Units | None = None
) -> int:
    """The most that a request with these bounds can be charged, whatever classes its tokens turn out to be in.

    Raises ChargeOutOfRange, for a negative bound too: it would make another one look cheap.
    """
    _check_bounds(input_tokens, output_tokens)
    numerator = input_tokens * price.rates.dearest_input + output_tokens * price.rates.dearest_output
    numerator = numerator * _MS_PER_MINUTE + _pieces(units or Units(requests=1), price.rates)
    return _in_range(-(-numerator * price.markup_ppm // _SCALE))


def affordable_output_tokens(
    price: PriceVersion, *, available_nano_usd: int, input_tokens: int, units: Units | None = None
) -> int:
    """The most output tokens whose worst case fits `available_nano_usd`; -1 when not even input and `units` do.

    Never more than MAX_COUNT, which is also the answer for a model without an output rate: that is bounded by
    something else. Raises ChargeOutOfRange for a negative input.
    """
    _check_bounds(input_tokens)
    pieces = _pieces(units or Units(requests=1), price.rates)
    fixed = input_tokens * price.rates.dearest_input * _MS_PER_MINUTE + pieces
    room = available_nano_usd * _SCALE - fixed * price.markup_ppm
    if room < 0:
        return -1
    per_token = price.rates.dearest_output * price.markup_ppm * _MS_PER_MINUTE
    return MAX_COUNT if per_token == 0 else min(room // per_token, MAX_COUNT)


def _rounded_up(tokens: Tokens, units: Units, rates: Rates, markup_ppm: int) -> int:
    return _in_range(-(-_sum(tokens, units, rates) * markup_ppm // _SCALE))


def _sum(tokens: Tokens, units: Units, rates: Rates) -> int:
    """Σ count × rate, over the denominator million × minute."""
    by_token = (
        tokens.input * rates.input
        + tokens.cached_input * rates.cached_input
        + tokens.cache_write * rates.cache_write
        + tokens.output * rates.output
        + tokens.image_input * rates.image_input
    )
    if tokens.cache_write_1h or tokens.audio_input or tokens.audio_output:  # rates that have to be worked out
        by_token += (
            tokens.cache_write_1h * rates.for_cache_write_1h
            + tokens.audio_input * rates.for_audio_input
            + tokens.audio_output * rates.for_audio_output
        )
    return by_token * _MS_PER_MINUTE + _pieces(units, rates)


def _pieces(units: Units, rates: Rates) -> int:
    """Σ of what is sold by the piece, over the denominator million × minute."""
    by_piece = units.requests * rates.per_request * _PER_PIECE
    if units.images or units.characters or units.milliseconds:  # which chats have none of
        by_piece += (
            units.images * rates.per_image * _PER_PIECE
            + units.characters * rates.per_million_characters * _MS_PER_MINUTE
            + units.milliseconds * rates.per_minute * _MILLION
        )
    return by_piece


def _check_bounds(*bounds: int) -> None:
    if min(bounds) < 0:
        raise ChargeOutOfRange(f"a bound is negative: {min(bounds)}")


def _in_range(charge: int) -> int:
    if charge > MAX_CHARGE:
        raise ChargeOutOfRange(f"{charge} nano-USD for one request")
    return charge
