"""The parts of the config file that router owns: `providers`, `models`, `slots`, and of `billing` the credit's value.

Everything that can be wrong is found here, with file, line and key, so that a running router never meets a route that
it can't price. Billing judges the rest of `billing`; nothing else in it is resolved here.
"""

import dataclasses
import math
import re
from collections.abc import Mapping
from decimal import Decimal
from urllib.parse import urlsplit

from chassis.config import ConfigError, ConfigText, section
from pricing.prices import Rates
from services.router.config_sections import AccountSection, BillingSection, ModelSection, Owned, ProviderSection
from services.router.pricebook import (
    DEFAULT,
    PriceProblem,
    PriceSection,
    at,
    list_price,
    price_version,
    variant_names,
)
from services.router.registry import (
    NAME,
    STAR,
    WILDCARD_ENDING,
    Account,
    Bounds,
    Model,
    Provider,
    Registry,
    Route,
    Timeouts,
)

MAX_SLOTS = 1_000_000
MAX_WEIGHT = 1_000_000
MAX_TOKENS = 1 << 31
MAX_WAIT_S = 60.0
DEFAULT_MAX_OUTPUT = 8192
"""For chat models that say neither `max_output` nor `context`: something has to bound what is held."""

LOCAL = "local"
LOCAL_MODELS_URL = "TOLLBRIDGE_LOCAL_MODELS_URL"
_KEYLESS = frozenset({"sandbox", LOCAL})
_BY_TASK = frozenset({"image", "video"})
_PREDICTIONS = "predictions"
_NAME_REFERENCE = re.compile(r"(?<!\$)\$\{([A-Za-z_]\w*)\}")
_Key = tuple[str | int, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RouterConfig:
    """What the file says, checked and priced. `omitted` names providers left out for want of a key."""

    registry: Registry
    slot_wait_s: float
    omitted: tuple[str, ...] = ()
    sandboxed: tuple[str, ...] = ()


def parse(text: ConfigText, environ: Mapping[str, str] | None = None) -> RouterConfig:
    """Reads router's sections. Raises chassis.config.ConfigError with file, line and key."""
    owned = section(_prepared(text), Owned, environ=environ)
    if not 0 <= owned.slots.wait_s <= MAX_WAIT_S:
        raise text.error(f"is from 0 to {MAX_WAIT_S:g} seconds", ("slots", "wait_s"))
    credit_value = owned.billing.credit_value
    if not credit_value.is_finite() or not 0 < credit_value <= 1000:
        raise text.error("is above 0 and at most 1000 USD", ("billing", "credit_value"))
    providers = _providers(text, owned.providers)
    models = _models(text, owned.models, providers=providers, credit_value=credit_value)
    declared = {entry.id: entry for entry in owned.providers}
    return RouterConfig(
        registry=Registry(providers=providers.values(), models=models),
        slot_wait_s=owned.slots.wait_s,
        omitted=tuple(name for name, provider in providers.items() if not provider.accounts),
        sandboxed=tuple(
            name for name, provider in providers.items() if provider.is_sandbox and declared[name].protocol != "sandbox"
        ),
    )


def _prepared(text: ConfigText) -> ConfigText:
    """The text with little of `billing`, and with keys that may be missing written so that a missing one is empty."""
    text = text.with_little_of("billing", BillingSection.__struct_fields__)
    providers = text.data.get("providers")
    if not isinstance(providers, list):
        return text
    prepared = [_with_local_url(_with_optional_keys(each)) for each in providers]
    return dataclasses.replace(text, data={**text.data, "providers": prepared})


def _with_local_url(entry: object) -> object:
    """Where the models of this machine are is a setting, since their process gets another port at each start."""
    if isinstance(entry, dict) and entry.get("protocol") == LOCAL and "base_url" not in entry:
        return {**entry, "base_url": f"${{{LOCAL_MODELS_URL}:-}}"}
    return entry


def _with_optional_keys(entry: object) -> object:
    if not isinstance(entry, dict) or entry.get("without_key") not in ("omit", "sandbox"):
        return entry
    accounts = entry.get("accounts")
    if not isinstance(accounts, list):
        return entry
    return {**entry, "accounts": [_with_optional_key(account) for account in accounts]}


def _with_optional_key(account: object) -> object:
    if not isinstance(account, dict) or not isinstance(account.get("api_key"), str):
        return account
    return {**account, "api_key": _NAME_REFERENCE.sub(r"${\1:-}", account["api_key"])}


# Providers


def _providers(text: ConfigText, entries: tuple[ProviderSection, ...]) -> dict[str, Provider]:
    providers: dict[str, Provider] = {}
    account_ids: set[str] = set()
    for index, entry in enumerate(entries):
        where: _Key = ("providers", index)
        _check_id(text, entry.id, (*where, "id"))
        if entry.id in providers:
            raise text.error(f"provider {entry.id!r} is there twice", (*where, "id"))
        for number, account in enumerate(entry.accounts):
            _check_account(text, account, (*where, "accounts", number))
            if account.id in account_ids:
                raise text.error(f"account {account.id!r} is there twice", (*where, "accounts", number, "id"))
            account_ids.add(account.id)
        provider = _provider(text, entry, where)
        providers[entry.id] = provider
        account_ids |= {account.id for account in provider.accounts}
    return providers


def _provider(text: ConfigText, entry: ProviderSection, where: _Key) -> Provider:
    protocol, accounts = _usable(text, entry, where)
    if entry.protocol not in _KEYLESS or (entry.protocol == LOCAL and entry.base_url):
        _check_base_url(text, entry.base_url, (*where, "base_url"))
    drain = entry.drain
    _check_seconds(text, drain.seconds, (*where, "drain", "seconds"))
    if not 0 <= drain.at_once <= MAX_SLOTS:
        raise text.error(f"is from 0 to {MAX_SLOTS}", (*where, "drain", "at_once"))
    for name in ("connect", "first_byte", "idle", "total"):
        _check_seconds(text, getattr(entry.timeouts, name), (*where, "timeouts", name))
    return Provider(
        id=entry.id,
        protocol=protocol,
        base_url="" if entry.protocol == "sandbox" else entry.base_url.rstrip("/"),
        timeouts=Timeouts(
            connect_s=entry.timeouts.connect,
            first_byte_s=entry.timeouts.first_byte,
            idle_s=entry.timeouts.idle,
            total_s=entry.timeouts.total,
        ),
        on_disconnect=entry.on_disconnect,
        drain_s=drain.seconds,
        drain_at_once=drain.at_once,
        accounts=accounts,
        stream_options=entry.stream_options,
    )


def _usable(text: ConfigText, entry: ProviderSection, where: _Key) -> tuple[str, tuple[Account, ...]]:
    """The protocol that answers in the end, and the accounts that it can be called with.

    Local models speak OpenAI's, and without their process there is nobody to call.
    """
    declared = entry.accounts or (AccountSection(id=entry.id),)
    own = tuple(_account(entry.id, account) for account in declared)
    if entry.protocol == LOCAL:
        return "openai", own if entry.base_url else ()
    if entry.protocol in _KEYLESS:
        return entry.protocol, own
    keyed = tuple(_account(entry.id, account) for account in entry.accounts if account.api_key)
    if entry.without_key == "error":
        for number, account in enumerate(entry.accounts):
            if not account.api_key:
                raise text.error("is missing (without_key: error)", (*where, "accounts", number, "api_key"))
        if not entry.accounts:
            raise text.error("has no account, so no key (without_key: error)", (*where, "accounts"))
    if not keyed and entry.without_key == "sandbox":
        return "sandbox", own
    return entry.protocol, keyed


def _account(provider_id: str, entry: AccountSection) -> Account:
    return Account(id=entry.id, provider_id=provider_id, api_key=entry.api_key, slots=entry.slots, weight=entry.weight)


def _check_account(text: ConfigText, account: AccountSection, where: _Key) -> None:
    _check_id(text, account.id, (*where, "id"))
    if account.slots is not None and not 1 <= account.slots <= MAX_SLOTS:
        raise text.error(f"is from 1 to {MAX_SLOTS}; left out it is unlimited", (*where, "slots"))
    if not 1 <= account.weight <= MAX_WEIGHT:
        raise text.error(f"is from 1 to {MAX_WEIGHT}", (*where, "weight"))
    if not account.api_key.isascii() or not account.api_key.isprintable():
        raise text.error("can't be sent in a header", (*where, "api_key"))


def _check_base_url(text: ConfigText, url: str, where: _Key) -> None:
    problem = _base_url_problem(url)
    if problem:
        raise text.error(problem, where)


def _base_url_problem(url: str) -> str:
    if not url:
        return "is missing"
    try:
        parts = urlsplit(url)
        port_is_wrong = parts.port == 0
    except ValueError:
        return "is no URL"
    if parts.scheme not in ("http", "https") or not parts.hostname or port_is_wrong or re.search(r"\s", url):
        return "is no http or https URL"
    if parts.username is not None or parts.password is not None:
        return "holds credentials: they belong in api_key"
    return "has a query or a fragment" if parts.query or parts.fragment else ""


# Models


def _models(
    text: ConfigText, entries: tuple[ModelSection, ...], *, providers: Mapping[str, Provider], credit_value: Decimal
) -> list[Model]:
    names: set[str] = set()
    models = []
    for index, entry in enumerate(entries):
        where: _Key = ("models", index)
        keys: list[tuple[str, _Key]] = [(entry.id, (*where, "id"))]
        keys += [(alias, (*where, "aliases", number)) for number, alias in enumerate(entry.aliases)]
        for name, key in keys:
            _check_id(text, name, key)
            if name in names:
                raise text.error(f"model {name!r} is there twice", key)
            names.add(name)
        _check_stars(text, entry, where)
        models.append(_model(text, entry, where, providers=providers, credit_value=credit_value))
    return models


def _check_stars(text: ConfigText, entry: ModelSection, where: _Key) -> None:
    """Refuses a `*` that means nothing, rather than offer a model that nobody can ask for."""
    is_wildcard = entry.id.endswith(WILDCARD_ENDING)
    if STAR in (entry.id.removesuffix(WILDCARD_ENDING) if is_wildcard else entry.id) or entry.id == WILDCARD_ENDING:
        raise text.error("may have a `*` only at its end, after a `/`, such as openai/*", (*where, "id"))
    if is_wildcard and entry.category in _BY_TASK:
        raise text.error(f"is a wildcard, which {entry.category} models can't have", (*where, "id"))
    for number, alias in enumerate(entry.aliases):
        if is_wildcard or STAR in alias:
            raise text.error("a wildcard has no other name, and is no other name", (*where, "aliases", number))
    for number, route in enumerate(entry.routes):
        if route.model.count(STAR) > (1 if is_wildcard else 0):
            raise text.error("a `*` is the rest of a wildcard's name, once", (*where, "routes", number, "model"))


def _model(
    text: ConfigText, entry: ModelSection, where: _Key, *, providers: Mapping[str, Provider], credit_value: Decimal
) -> Model:
    for name in ("context", "max_output", "template_tokens", "max_part_tokens", "hidden_output"):
        if not 0 <= getattr(entry, name) <= MAX_TOKENS:
            raise text.error(f"is from 0 to {MAX_TOKENS}", (*where, name))
    if not 0 <= entry.created < 1 << 33:
        raise text.error("is in seconds since the epoch", (*where, "created"))
    price = entry.price
    if price is None:
        raise text.error("is missing: nothing is sold at an unknown price", (*where, "price"))
    try:
        variant_names(price)
        listed = list_price(at(price, DEFAULT), category=entry.category, credit_value=credit_value)
    except PriceProblem as problem:
        raise _at(text, problem, where, route=None) from problem
    routes = tuple(
        _route(text, entry, price, where, number, providers=providers, credit_value=credit_value)
        for number in range(len(entry.routes))
    )
    return Model(
        id=entry.id,
        display_name=entry.display_name or entry.id,
        owned_by=entry.owned_by or _owner(entry),
        category=entry.category,
        capabilities=(entry.category,) if entry.capabilities is None else entry.capabilities,
        bounds=_bounds(entry),
        aliases=entry.aliases,
        routes=routes,
        list_price=listed,
        credits_per_request=price.credits or 0,
        created_at_us=entry.created * 1_000_000,
    )


def _owner(entry: ModelSection) -> str:
    owner, slash, _ = entry.id.partition("/")
    if slash:
        return owner
    return entry.routes[0].provider if entry.routes else "tollbridge"


def _bounds(entry: ModelSection) -> Bounds:
    is_chat = entry.category == "chat"
    return Bounds(
        context=entry.context,
        max_output=entry.max_output or (entry.context or DEFAULT_MAX_OUTPUT if is_chat else 0),
        template_tokens=entry.template_tokens,
        max_part_tokens=entry.max_part_tokens,
        hidden_output=entry.hidden_output,
    )


def _route(
    text: ConfigText,
    model: ModelSection,
    price: PriceSection,
    where: _Key,
    number: int,
    *,
    providers: Mapping[str, Provider],
    credit_value: Decimal,
) -> Route:
    entry, here = model.routes[number], (*where, "routes", number)
    provider = providers.get(entry.provider)
    if provider is None:
        raise text.error(f"there is no provider {entry.provider!r}", (*here, "provider"))
    if provider.protocol == _PREDICTIONS and model.category not in _BY_TASK:
        raise text.error(f"speaks {_PREDICTIONS}, which is for images and videos", (*here, "provider"))
    if not entry.model:
        raise text.error("is empty", (*here, "model"))
    if not 0 <= entry.priority <= MAX_WEIGHT or not 1 <= entry.weight <= MAX_WEIGHT:
        raise text.error(f"priority is from 0 and weight from 1, both to {MAX_WEIGHT}", here)
    try:
        names = variant_names(price, entry.cost)
        versions = [
            price_version(
                at(price, name),
                None if entry.cost is None else at(entry.cost, name),
                category=model.category,
                credit_value=credit_value,
            )
            for name in (DEFAULT, *names)
        ]
    except PriceProblem as problem:
        raise _at(text, problem, where, route=number) from problem
    if provider.is_sandbox:  # whoever it stands in for
        versions = [dataclasses.replace(version, cost=Rates(), cost_reported=False) for version in versions]
    is_openai = urlsplit(provider.base_url).hostname == "api.openai.com"
    return Route(
        provider=provider,
        provider_model=entry.model,
        priority=entry.priority,
        weight=entry.weight,
        max_tokens_field=entry.max_tokens_field or ("max_completion_tokens" if is_openai else "max_tokens"),
        price=versions[0],
        variants=tuple(zip(names, versions[1:], strict=True)),
    )


def _at(text: ConfigText, problem: PriceProblem, where: _Key, *, route: int | None) -> ConfigError:
    base: _Key = (*where, "price")
    steps = tuple(filter(None, problem.key.split(".")))
    if steps[:1] == ("cost",) and route is not None:
        base = (*where, "routes", route)
    return text.error(str(problem), (*base, *steps))


def _check_id(text: ConfigText, name: str, where: _Key) -> None:
    if not NAME.fullmatch(name):
        raise text.error("is 1 to 200 characters without blanks", where)


def _check_seconds(text: ConfigText, seconds: float, where: _Key) -> None:
    if not math.isfinite(seconds) or not 0 < seconds <= 86_400:
        raise text.error("is above 0 and at most 86400 seconds", where)
