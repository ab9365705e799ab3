"""The parts of the config file that auth reads: `keys`, `plans`, and of `billing` the default plan.

`billing` belongs to billing, which checks the rest of it; only its `default_plan` is looked at here, and nothing else
in it is resolved, so that auth needs none of billing's secrets.
"""

import dataclasses
from collections.abc import Mapping

import msgspec

from chassis.config import ConfigText, section
from services.auth import api_keys
from services.auth.limits import WITHOUT_PLAN, Limits, Scope

DEFAULT_PREFIX = "tb_live_"


class KeysSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`keys`: how new keys look."""

    prefix: str = DEFAULT_PREFIX


class PlanSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One of `plans`; what is left out is unlimited."""

    id: str
    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    concurrent: int = 0
    scope: Scope = "key"


class BillingSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The one key of `billing` that matters here."""

    default_plan: str = ""


class _Owned(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    keys: KeysSection = KeysSection()
    plans: list[PlanSection] = []
    billing: BillingSection = BillingSection()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AuthConfig:
    """What the file says, checked."""

    key_prefix: str = DEFAULT_PREFIX
    plans: Mapping[str, Limits] = dataclasses.field(default_factory=dict)
    default_plan: str = ""

    def plan_id(self, stored: str) -> str:
        """The plan that a customer is on: their own, else the default one.

        A customer whose plan has left the file falls back to the default plan, which is never more than what the
        operator gives to anybody.
        """
        return stored if stored in self.plans else self.default_plan

    def limits_of(self, stored: str) -> Limits:
        """The limits of that plan."""
        return self.plans.get(self.plan_id(stored), WITHOUT_PLAN)


def parse(text: ConfigText, environ: Mapping[str, str] | None = None) -> AuthConfig:
    """Reads auth's sections. Raises chassis.config.ConfigError with file, line and key."""
    owned = section(text.with_little_of("billing", BillingSection.__struct_fields__), _Owned, environ=environ)
    prefix = owned.keys.prefix
    if not api_keys.is_prefix(prefix):
        raise text.error("is at most 32 printable ASCII characters without blanks", ("keys", "prefix"))
    plans = _plans(text, owned.plans)
    if owned.billing.default_plan and owned.billing.default_plan not in plans:
        raise text.error(f"there is no plan {owned.billing.default_plan!r}", ("billing", "default_plan"))
    return AuthConfig(key_prefix=prefix, plans=plans, default_plan=owned.billing.default_plan)


def _plans(text: ConfigText, sections: list[PlanSection]) -> dict[str, Limits]:
    plans: dict[str, Limits] = {}
    for number, plan in enumerate(sections):
        if not plan.id or len(plan.id) > 100:
            raise text.error("is 1 to 100 characters", ("plans", number, "id"))
        if plan.id in plans:
            raise text.error(f"plan {plan.id!r} is there twice", ("plans", number, "id"))
        try:
            plans[plan.id] = Limits(
                requests_per_minute=plan.requests_per_minute,
                tokens_per_minute=plan.tokens_per_minute,
                concurrent=plan.concurrent,
                scope=plan.scope,
            )
        except ValueError as error:
            raise text.error(str(error), ("plans", number)) from error
    return plans
