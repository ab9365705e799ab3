"""`X-Max-Cost`: what a client is willing to pay for one request, in USD.

The worst case is compared with it before anything runs. A dearer request is refused, not clamped: what its sender sees
as the limit of its cost must not silently become a limit of its answer.
"""

from collections.abc import Iterable

from chassis.errors import Code, TollbridgeError
from pricing.prices import nano_usd, usd_text

HEADER = b"x-max-cost"


def max_cost_of(headers: Iterable[tuple[bytes, bytes]]) -> int | None:
    """The header's amount in nano-USD, None without one. Raises INVALID_REQUEST for what is no amount."""
    values = [value for name, value in headers if name == HEADER]
    if not values:
        return None
    try:
        amount = nano_usd(values[0].decode("latin-1").strip())
    except ValueError as error:
        raise _invalid() from error
    if amount < 0 or len(values) > 1:
        raise _invalid()
    return amount


def max_cost_exceeded(*, worst_nano_usd: int, max_cost_nano_usd: int) -> TollbridgeError:
    """The refusal, which names the worst case."""
    worst = usd_text(worst_nano_usd)
    message = (
        f"This request could cost {worst} USD, which is more than X-Max-Cost allows ({usd_text(max_cost_nano_usd)})."
    )
    return TollbridgeError(Code.MAX_COST_EXCEEDED, message, details={"worst_case_usd": worst})


def _invalid() -> TollbridgeError:
    message = "X-Max-Cost must be one amount in USD such as 0.05."
    return TollbridgeError(Code.INVALID_REQUEST, message, details={"param": "X-Max-Cost"})
