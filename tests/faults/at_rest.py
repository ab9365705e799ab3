"""What a run remembers of its clients, and the audit of everything once it is over."""

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Mapping
from decimal import Decimal

from tests.faults.checker import Price, audit
from tests.faults.seen import Seen, Told
from tests.integration.offer import RATES
from tests.integration.running import Account, Gateway, Provider

AT_REST_WITHIN_S = 120.0
LOGGED = [model for model in RATES if model != "sandbox-chat"]
"""The sandbox keeps no log that its charges could be compared with."""
PRICES = {model: Price(per_million=RATES[model]) for model in LOGGED} | {
    "fixed-chat": Price(per_request=Decimal("0.03"))
}
"""Of the models in `offer.CONFIG`."""


@dataclasses.dataclass(kw_only=True)
class Run:
    """One gateway before one provider, and what clients saw, by request id.

    `delivered` counts the pieces that a client had received when it left. `shortened` ended as `length` because the
    route's total time was over, `answered` came whole, `refused` came with an error, and of `stayed` the client did not
    leave. `lossy` is a network that may lose what the provider sends last. `told`, `painted` and `credited` are as in
    `Seen`.
    """

    gateway: Gateway
    provider: Provider
    prices: Mapping[str, Price]
    accounts: list[Account] = dataclasses.field(default_factory=list)
    delivered: dict[str, int] = dataclasses.field(default_factory=dict)
    shortened: set[str] = dataclasses.field(default_factory=set)
    answered: set[str] = dataclasses.field(default_factory=set)
    refused: set[str] = dataclasses.field(default_factory=set)
    stayed: set[str] = dataclasses.field(default_factory=set)
    left_at_us: dict[str, int] = dataclasses.field(default_factory=dict)
    lossy: bool = False
    told: dict[str, list[Told]] = dataclasses.field(default_factory=dict)
    painted: dict[str, int] = dataclasses.field(default_factory=dict)
    credited: dict[str, Decimal] = dataclasses.field(default_factory=dict)

    def customer(self, *, credit_usd: str) -> Account:
        """A new customer, who is audited too."""
        made = self.gateway.customer(credit_usd=credit_usd)
        self.accounts.append(made)
        self.credited[made.key] = Decimal(credit_usd)
        return made

    def differences(self) -> list[str]:
        """What the auditor finds now."""
        seen = Seen(
            delivered=self.delivered,
            shortened=self.shortened,
            answered=self.answered,
            refused=self.refused,
            stayed=self.stayed,
            left_at_us=self.left_at_us,
            lossy=self.lossy,
            told=self.told,
            painted=self.painted,
            credited=self.credited,
        )
        return audit(
            data_dir=self.gateway.data_dir,
            log=self.provider.log,
            prices=self.prices,
            keys=[account.key for account in self.accounts],
            seen=seen,
        )

    def audit(self, *, within_s: float = AT_REST_WITHIN_S) -> None:
        """Every nano-dollar is where it belongs, as soon as all has come to rest."""
        deadline = time.monotonic() + within_s
        while found := self.differences():
            assert time.monotonic() < deadline, "\n".join(found)
            time.sleep(0.5)


@contextlib.contextmanager
def audited(gateway: Gateway, provider: Provider, *, lossy: bool = False) -> Iterator[None]:
    """A block after which every nano-dollar is where it belongs."""
    yield
    Run(gateway=gateway, provider=provider, prices=PRICES, lossy=lossy).audit()
