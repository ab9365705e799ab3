"""The `billing` section of the config file: everything that it may hold is checked here, whoever uses it.

Amounts are exact decimals in USD there and integer nano-USD here.
"""

import dataclasses
import ipaddress
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Literal, TypeVar
from urllib.parse import urlsplit

import msgspec

from chassis.config import ConfigText, section
from pricing.prices import nano_usd
from services.billing.ledger import MAX_AMOUNT
from services.billing.payments.tron_address import account_of

T = TypeVar("T")
MAX_SETTLE_GRACE_S = 7 * 86_400
LEAST_KEPT_DAYS = 40
"""Longer than the streams and spools, so that a duplicate always meets its twin."""
MOST_KEPT_DAYS = 3650


class StripeSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`billing.stripe`."""

    secret_key: str
    webhook_secret: str
    api_base: str = "https://api.stripe.com"


class CryptoSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`billing.crypto`. `chain_file` is the chain of the local watcher, which is for tests.

    With `round_first` a payment asks for just its sum while no other at its address does, see `chain`.
    """

    address: str
    network: Literal["TRC-20"] = "TRC-20"
    watcher: Literal["tron", "local"] = "tron"
    confirmations: int = 19
    expires_minutes: int = 60
    api_base: str = "https://api.trongrid.io"
    api_key: str = ""
    contract: str = "TR7NHqjeKQxGTCi8q8ZY4pL8otSzgjLj6t"
    poll_seconds: int = 10
    chain_file: str = ""
    round_first: bool = False


class WebhooksSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`billing.webhooks`. In `allowed_networks` customers' webhooks may go to private addresses, and by http."""

    allowed_networks: tuple[str, ...] = ()


class BillingSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`billing`, as the file has it."""

    credit_value: Decimal = Decimal("0.01")
    welcome_credit: Decimal = Decimal(0)
    default_plan: str = ""
    on_short_credit: Literal["clamp", "refuse"] = "clamp"
    lease_chunk: Literal["exact", "adaptive"] = "adaptive"
    settle_grace_s: int = 1800
    usage_kept_days: int = 400
    holds_kept_days: int = 60
    top_up_url: str = ""
    low_balance: Decimal = Decimal(1)
    exhausted_balance: Decimal = Decimal("0.001")
    stripe: StripeSection | None = None
    crypto: CryptoSection | None = None
    webhooks: WebhooksSection = WebhooksSection()


class _Sections(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    billing: BillingSection = BillingSection()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BillingConfig:
    """What billing runs by. Amounts in nano-USD; `stripe` and `crypto` are None where not configured."""

    credit_value_nano_usd: int
    welcome_credit_nano_usd: int
    default_plan: str
    on_short_credit: Literal["clamp", "refuse"]
    lease_chunk: Literal["exact", "adaptive"]
    settle_grace_s: int
    usage_kept_days: int
    holds_kept_days: int
    top_up_url: str
    low_balance_nano_usd: int
    exhausted_balance_nano_usd: int
    webhook_networks: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]
    stripe: StripeSection | None = dataclasses.field(repr=False)
    crypto: CryptoSection | None = dataclasses.field(repr=False)


def defaults() -> BillingConfig:
    """What holds without a config file."""
    return _config(BillingSection(), 10_000_000, 0)


def parse(text: ConfigText, environ: Mapping[str, str] | None = None) -> BillingConfig:
    """Reads and checks the section. Raises ConfigError, which names file, line and key."""
    found = section(text, _Sections, environ=environ).billing
    credit_value = _checked(text, "credit_value", lambda: _amount(found.credit_value, least=1))
    welcome = _checked(text, "welcome_credit", lambda: _amount(found.welcome_credit, least=0))
    _checked(text, "low_balance", lambda: _amount(found.low_balance, least=0))
    _checked(text, "exhausted_balance", lambda: _amount(found.exhausted_balance, least=0))
    _checked(text, "webhooks.allowed_networks", lambda: _networks(found))
    _checked(text, "settle_grace_s", lambda: _within(found.settle_grace_s, 0, MAX_SETTLE_GRACE_S))
    _checked(text, "usage_kept_days", lambda: _within(found.usage_kept_days, LEAST_KEPT_DAYS, MOST_KEPT_DAYS))
    _checked(text, "holds_kept_days", lambda: _within(found.holds_kept_days, LEAST_KEPT_DAYS, MOST_KEPT_DAYS))
    if found.top_up_url:
        _checked(text, "top_up_url", lambda: _http_url(found.top_up_url))
    if found.stripe is not None:
        _check_stripe(text, found.stripe)
    if found.crypto is not None:
        _check_crypto(text, found.crypto)
    return _config(found, credit_value, welcome)


def _config(found: BillingSection, credit_value_nano_usd: int, welcome_credit_nano_usd: int) -> BillingConfig:
    return BillingConfig(
        credit_value_nano_usd=credit_value_nano_usd,
        welcome_credit_nano_usd=welcome_credit_nano_usd,
        default_plan=found.default_plan,
        on_short_credit=found.on_short_credit,
        lease_chunk=found.lease_chunk,
        settle_grace_s=found.settle_grace_s,
        usage_kept_days=found.usage_kept_days,
        holds_kept_days=found.holds_kept_days,
        top_up_url=found.top_up_url,
        low_balance_nano_usd=nano_usd(found.low_balance),
        exhausted_balance_nano_usd=nano_usd(found.exhausted_balance),
        webhook_networks=_networks(found),
        stripe=found.stripe,
        crypto=found.crypto,
    )


def _check_stripe(text: ConfigText, stripe: StripeSection) -> None:
    """An empty webhook secret would accept anybody's webhook, so it is refused and not read as "none"."""
    _checked(text, "stripe.secret_key", lambda: _not_empty(stripe.secret_key))
    _checked(text, "stripe.webhook_secret", lambda: _not_empty(stripe.webhook_secret))
    _checked(text, "stripe.api_base", lambda: _http_url(stripe.api_base))


def _check_crypto(text: ConfigText, crypto: CryptoSection) -> None:
    """A mistyped address would be paid by customers and read by nobody, so its checksum is checked."""
    _checked(text, "crypto.address", lambda: _not_empty(crypto.address))
    if crypto.watcher == "tron":
        _checked(text, "crypto.address", lambda: account_of(crypto.address))
        _checked(text, "crypto.contract", lambda: account_of(crypto.contract))
        _checked(text, "crypto.api_base", lambda: _http_url(crypto.api_base))
    _checked(text, "crypto.poll_seconds", lambda: _within(crypto.poll_seconds, 1, 600))
    _checked(text, "crypto.confirmations", lambda: _within(crypto.confirmations, 1, 1000))
    _checked(text, "crypto.expires_minutes", lambda: _within(crypto.expires_minutes, 1, 24 * 60))


def _checked(text: ConfigText, key: str, check: Callable[[], T]) -> T:
    try:
        return check()
    except ValueError as error:
        raise text.error(str(error), ("billing", *key.split("."))) from None


def _networks(found: BillingSection) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    return tuple(ipaddress.ip_network(each) for each in found.webhooks.allowed_networks)


def _amount(usd: Decimal, *, least: int) -> int:
    return _within(nano_usd(usd), least, MAX_AMOUNT)


def _within(value: int, least: int, most: int) -> int:
    if not least <= value <= most:
        raise ValueError(f"must be from {least} to {most}")
    return value


def _not_empty(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be empty")
    return text


def _http_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("must be an http or https URL")
    return text
