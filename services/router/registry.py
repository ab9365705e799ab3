"""Models, their aliases and routes, and the provider accounts behind them: what one config file says, as plain values.

A registry is never changed; a new config makes a new one. Credentials are in it and are hidden by repr.
A model whose id ends in `/*` is a wildcard: it stands for every name below, under that name.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping

from pricing.prices import PriceVersion

NAME = re.compile(r"[^\s\x00-\x1f\x7f]{1,200}")
"""What a model, a provider or an account may be called."""
STAR = "*"
WILDCARD_ENDING = "/*"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Seconds: to connect, to the first byte, between two reads, altogether."""

    connect_s: float = 5.0
    first_byte_s: float = 60.0
    idle_s: float = 60.0
    total_s: float = 600.0

    @property
    def until_first_byte_s(self) -> float:
        """From the attempt's beginning."""
        return self.connect_s + self.first_byte_s


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """One credential at one provider. `slots` None is unlimited."""

    id: str
    provider_id: str
    api_key: str = dataclasses.field(default="", repr=False)
    slots: int | None = None
    weight: int = 1


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """Who is called, how, and with which accounts. Without accounts its routes are not configured.

    `stream_options` is False for one that refuses this field of OpenAI's chats.
    """

    id: str
    protocol: str
    base_url: str
    timeouts: Timeouts
    on_disconnect: str
    drain_s: float
    drain_at_once: int
    accounts: tuple[Account, ...]
    stream_options: bool = True

    @property
    def is_sandbox(self) -> bool:
        """Whether the built-in sandbox answers, by config or in place of a missing key."""
        return self.protocol == "sandbox"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One way to serve a model, at one price."""

    provider: Provider
    provider_model: str
    priority: int
    weight: int
    max_tokens_field: str
    price: PriceVersion
    variants: tuple[tuple[str, PriceVersion], ...] = ()
    """What other sizes and qualities cost, by the names of `pricing.variants`."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What bounds a request's worst case, in tokens; 0 as `context` means unknown."""

    context: int = 0
    max_output: int = 0
    template_tokens: int = 0
    max_part_tokens: int = 0
    hidden_output: int = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A public model. `list_price` is what an unrouted model shows, None when it depends on a route's cost.

    `wildcard` is the config's id of a model that was found below a wildcard; empty for one with an id of its own.
    """

    id: str
    display_name: str
    owned_by: str
    category: str
    capabilities: tuple[str, ...]
    bounds: Bounds
    aliases: tuple[str, ...]
    routes: tuple[Route, ...]
    list_price: PriceVersion | None
    credits_per_request: int
    created_at_us: int
    wildcard: str = ""

    @property
    def is_wildcard(self) -> bool:
        """Whether it stands for the names below its id and can't be asked for itself."""
        return self.id.endswith(WILDCARD_ENDING)

    @property
    def config_id(self) -> str:
        """The id that the config file has: one of a bounded number, whatever callers ask for."""
        return self.wildcard or self.id

    def named(self, name: str) -> "Model":
        """The model of that name below this wildcard; a `*` in a route's model becomes the rest of the name."""
        rest = name[len(self.id) - len(STAR) :]
        routes = tuple(
            dataclasses.replace(route, provider_model=route.provider_model.replace(STAR, rest)) for route in self.routes
        )
        return dataclasses.replace(self, id=name, display_name=name, wildcard=self.id, routes=routes)

    @property
    def is_configured(self) -> bool:
        """Whether any route has an account to use."""
        return any(route.provider.accounts for route in self.routes)

    @property
    def current_price(self) -> PriceVersion | None:
        """The price of the first usable route in order of priority: what a new request would most likely get."""
        route = self._first
        return self.list_price if route is None else route.price

    @property
    def current_variants(self) -> tuple[tuple[str, PriceVersion], ...]:
        """Of the same route, what other sizes and qualities cost."""
        route = self._first
        return () if route is None else route.variants

    @property
    def _first(self) -> Route | None:
        usable = [route for route in self.routes if route.provider.accounts] or list(self.routes)
        return min(usable, key=lambda route: route.priority) if usable else None


class Registry:
    """Looks up models by id or alias, and accounts by id. Duplicates were refused before it is made."""

    def __init__(self, *, providers: Iterable[Provider], models: Iterable[Model]) -> None:
        self.providers = tuple(providers)
        self.models = tuple(models)
        self.accounts: Mapping[str, Account] = {
            account.id: account for provider in self.providers for account in provider.accounts
        }
        self.sandboxed: frozenset[str] = frozenset(
            account.id for provider in self.providers if provider.is_sandbox for account in provider.accounts
        )
        self._timeouts = {account.id: provider.timeouts for provider in self.providers for account in provider.accounts}
        self._by_name = {
            name: model for model in self.models if not model.is_wildcard for name in (model.id, *model.aliases)
        }
        self._wildcards = sorted(
            (model for model in self.models if model.is_wildcard), key=lambda model: len(model.id), reverse=True
        )

    def find(self, name: str) -> Model | None:
        """The model with that id or alias, or else the one below the longest wildcard that fits."""
        found = self._by_name.get(name)
        if found is not None or not self._wildcards or STAR in name or not NAME.fullmatch(name):
            return found
        for model in self._wildcards:
            below = model.id.removesuffix(STAR)
            if name.startswith(below) and len(name) > len(below):
                return model.named(name)
        return None

    @property
    def price_versions(self) -> dict[str, PriceVersion]:
        """Every price that a decision or a list can name, by id."""
        prices = [route.price for model in self.models for route in model.routes]
        prices += [price for model in self.models for route in model.routes for _, price in route.variants]
        prices += [model.list_price for model in self.models if model.list_price is not None]
        return {price.id: price for price in prices}

    def first_byte_s(self, account_id: str) -> float:
        """How long an attempt there may be without a first byte; 0 of an account that is not in the config."""
        timeouts = self._timeouts.get(account_id)
        return timeouts.until_first_byte_s if timeouts is not None else 0.0

    @property
    def slots(self) -> dict[str, int]:
        """Accounts with a limited number of slots."""
        return {account.id: account.slots for account in self.accounts.values() if account.slots is not None}


EMPTY = Registry(providers=(), models=())
