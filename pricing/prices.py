"""Price versions: immutable, named by the hash of their content, so that a charge can be computed again for ever.

Rates are integer nano-USD per million tokens (or per piece). The markup stays apart from the rates until the one
rounding in `pricing.charge`, so that 1.3 × a rate is never rounded twice.
"""

import dataclasses
import hashlib
import json
from decimal import Decimal, InvalidOperation

NANO_PER_USD = 1_000_000_000
PPM = 1_000_000
MAX_RATE = 10**15
"""A million dollars per million tokens: a dearer rate is a mistake in the config, not a price."""
_NANO_PLACES = 9
_MOST_DIGITS = 12
_MOST_NANO_USD = 1 << 63
"""What a signed 64-bit column can hold below zero; above it is one less."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Nano-USD per million tokens by class; the `per_…` fields by their own unit.

    Three classes cost extra: `cache_write_1h`, `audio_input`, `audio_output`. 0 there is no rate of their own: requests
    that would use them are refused, and a token that a provider reports in them all the same is charged at the dearest
    rate of its side (`for_cache_write_1h` and so on), which is also what was reserved for it. So it is never free.
    """

    input: int = 0
    cached_input: int = 0
    cache_write: int = 0
    cache_write_1h: int = 0
    output: int = 0
    audio_input: int = 0
    audio_output: int = 0
    image_input: int = 0
    per_request: int = 0
    per_image: int = 0
    per_million_characters: int = 0
    per_minute: int = 0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if type(value) is not int or not 0 <= value <= MAX_RATE:
                raise ValueError(f"rate {field.name} is no integer or out of range: {value}")

    @property
    def dearest_input(self) -> int:
        """The highest rate that an input token can be charged at: what a reservation has to assume."""
        return max(
            self.input,
            self.cached_input,
            self.cache_write,
            self.cache_write_1h,
            self.audio_input,
            self.image_input,
        )

    @property
    def dearest_output(self) -> int:
        """The highest rate that an output token can be charged at."""
        return max(self.output, self.audio_output)

    @property
    def for_cache_write_1h(self) -> int:
        """What a token written to an hour's cache is charged at."""
        return self.cache_write_1h or self.dearest_input

    @property
    def for_audio_input(self) -> int:
        """What a token of sound in is charged at."""
        return self.audio_input or self.dearest_input

    @property
    def for_audio_output(self) -> int:
        """What a token of sound out is charged at."""
        return self.audio_output or self.dearest_output


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PriceVersion:
    """What a customer pays (`rates` × `markup_ppm`) and what the provider takes (`cost`).

    With `cost_reported` the provider's own reported cost × markup is the charge, and the rates only bound it.
    """

    rates: Rates
    cost: Rates
    markup_ppm: int = PPM
    cost_reported: bool = False

    def __post_init__(self) -> None:
        if type(self.markup_ppm) is not int or not 0 <= self.markup_ppm <= 1000 * PPM:
            raise ValueError(f"markup is no integer or out of range: {self.markup_ppm} ppm")

    @property
    def id(self) -> str:
        """SHA-256 of the canonical content, in hex."""
        content = json.dumps(dataclasses.asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(content.encode()).hexdigest()


def nano_usd(amount: Decimal | int | str) -> int:
    """USD to nano-USD, exactly. Raises ValueError for anything finer than a nano-dollar, not finite, or beyond 64 bits.

    Worked out in integers: Decimal arithmetic would round a long number to its context before anybody could see it.
    """
    if isinstance(amount, str) and (not amount.isascii() or "_" in amount):
        raise ValueError(f"{amount!r} is not an amount in plain digits")
    try:
        value = Decimal(amount)
    except InvalidOperation as error:
        raise ValueError(f"{amount!r} is not an amount") from error
    if not value.is_finite() or value.adjusted() > _MOST_DIGITS:
        raise ValueError(f"{amount} USD is out of range")
    sign, digits, exponent = value.as_tuple()
    text = "".join(map(str, digits)).rstrip("0") or "0"
    places = int(exponent) + len(digits) - len(text) + _NANO_PLACES
    if places < 0 and text != "0":
        raise ValueError(f"{amount} USD is not a whole number of nano-dollars")
    scaled = int(text) * 10 ** max(places, 0) if text != "0" else 0
    if scaled >= _MOST_NANO_USD + sign:
        raise ValueError(f"{amount} USD is out of range")
    return -scaled if sign else scaled


def usd_text(amount_nano_usd: int) -> str:
    """Nano-USD as a plain decimal string with nine decimals, such as `4.123456789`."""
    sign = "-" if amount_nano_usd < 0 else ""
    whole, nano = divmod(abs(amount_nano_usd), NANO_PER_USD)
    return f"{sign}{whole}.{nano:09d}"


def usd_number(amount_nano_usd: int) -> str:
    """Nano-USD as a JSON number in plain notation without trailing zeros, such as `0.0000098`; never `9.8e-06`."""
    text = usd_text(amount_nano_usd).rstrip("0")
    return text.removesuffix(".")
