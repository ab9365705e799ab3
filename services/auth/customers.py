"""Customers: who pays, and whether they may use the service. Pure."""

import dataclasses
import enum

from services.auth.spend_caps import SpendCap

MAX_NAME_LENGTH = 200
MAX_EMAIL_LENGTH = 320


class Status(enum.StrEnum):
    """Whether a customer may use the service. The value is what the database holds."""

    ACTIVE = "active"
    SUSPENDED = "suspended"
    BANNED = "banned"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Customer:
    """Somebody who pays. `plan` is what was chosen for them: empty follows the config's default plan.

    `spend_cap` is for all their keys together.
    """

    id: str
    name: str
    email: str = ""
    plan: str = ""
    status: Status = Status.ACTIVE
    created_at_us: int = 0
    spend_cap: SpendCap | None = None

    def __post_init__(self) -> None:
        for field, text in (("name", self.name), ("email", self.email)):
            if "\0" in text:
                raise ValueError(f"{field} must not have a NUL in it")
        if not 1 <= len(self.name) <= MAX_NAME_LENGTH:
            raise ValueError(f"name is 1 to {MAX_NAME_LENGTH} characters")
        if len(self.email) > MAX_EMAIL_LENGTH:
            raise ValueError(f"email is at most {MAX_EMAIL_LENGTH} characters")

    @property
    def may_use(self) -> bool:
        """False while suspended or banned."""
        return self.status is Status.ACTIVE
