"""The sections of the config file that router owns, as the file has them: names, types and defaults, no rules."""

from decimal import Decimal
from typing import Literal

import msgspec

from services.router.pricebook import Category, CostSection, PriceSection

DEFAULT_TEMPLATE_TOKENS = 64
DEFAULT_MAX_PART_TOKENS = 4096
DEFAULT_CREATED_S = 1_767_225_600
"""The first second of 2026: a model's `created` where the file says nothing."""


class TimeoutsSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Seconds."""

    connect: float = 5.0
    first_byte: float = 60.0
    idle: float = 60.0
    total: float = 600.0


class DrainSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long, and how many at once in one edge."""

    seconds: float = 60.0
    at_once: int = 100


class AccountSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One of a provider's `accounts`."""

    id: str
    api_key: str = ""
    slots: int | None = None
    weight: int = 1


class ProviderSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One of `providers`."""

    id: str
    protocol: Literal["openai", "anthropic", "sandbox", "local", "predictions"]
    without_key: Literal["error", "omit", "sandbox"] = "error"
    base_url: str = ""
    stream_options: bool = True
    timeouts: TimeoutsSection = TimeoutsSection()
    on_disconnect: Literal["drain", "cancel", "absorb"] = "drain"
    drain: DrainSection = DrainSection()
    accounts: tuple[AccountSection, ...] = ()


class RouteSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One of a model's `routes`."""

    provider: str
    model: str
    priority: int = 1
    weight: int = 1
    max_tokens_field: Literal["", "max_tokens", "max_completion_tokens"] = ""
    cost: CostSection | None = None


class ModelSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One of `models`. `created` is in seconds since the epoch, as OpenAI shows it."""

    id: str
    routes: tuple[RouteSection, ...]
    category: Category = "chat"
    price: PriceSection | None = None
    display_name: str = ""
    owned_by: str = ""
    capabilities: tuple[str, ...] | None = None
    aliases: tuple[str, ...] = ()
    context: int = 0
    max_output: int = 0
    template_tokens: int = DEFAULT_TEMPLATE_TOKENS
    max_part_tokens: int = DEFAULT_MAX_PART_TOKENS
    hidden_output: int = 0
    created: int = DEFAULT_CREATED_S


class SlotsSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`slots`: seconds that a request waits at most when every slot is busy."""

    wait_s: float = 10.0


class BillingSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The one key of `billing` that matters here: USD per platform credit."""

    credit_value: Decimal = Decimal("0.01")


class Owned(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The top-level keys that router reads."""

    providers: tuple[ProviderSection, ...] = ()
    models: tuple[ModelSection, ...] = ()
    slots: SlotsSection = SlotsSection()
    billing: BillingSection = BillingSection()
