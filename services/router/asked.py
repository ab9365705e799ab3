"""What spenders tell router of an attempt: that they want one, and how it ended. Plain values."""

import dataclasses

from services.router.breaker import Verdict

LEFT = "cancelled"
"""An end's name: nobody waits for it any more."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """How an attempt ended: `name` is the outcome as operators read it.

    `account_id` and `age_s` (since the attempt began) are what its spender says; they count where this replica has not
    decided on it. An empty account is one that the spender didn't name. `first_byte_s` is 0 when nothing was answered.
    """

    attempt_id: str
    verdict: Verdict
    name: str
    retry_after_s: float = 0.0
    account_id: str = ""
    age_s: float = 0.0
    first_byte_s: float = 0.0

    @property
    def is_left(self) -> bool:
        """Whether its caller left, or never called, before any answer."""
        return self.verdict is Verdict.NOTHING and self.name == LEFT and not self.first_byte_s


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A request for a route; ids are canonical UUID texts. `price_id` empty asks for the current price.

    `account_id` is the one account that will do, because it has the work running already; empty leaves the choice.
    """

    request_id: str
    attempt_id: str
    spender: str
    model: str
    operation: str
    tried: tuple[End, ...] = ()
    price_id: str = ""
    account_id: str = ""
    patience_s: float = 30.0
