"""A route to a provider, for tests that are not about the whole of it."""

from typing import Any

from pricing.prices import PriceVersion, Rates
from upstream.client import Timeouts
from upstream.route import Bounds, Route, WireProtocol


def route_to(base_url: str = "http://127.0.0.1:1/v1", **fields: Any) -> Route:
    """One over OpenAI's protocol and free of charge, but for what is said; its times suit a busy machine."""
    given: dict[str, Any] = {
        "attempt_id": "a",
        "model": "public",
        "provider_id": "p",
        "provider_account_id": "p-1",
        "protocol": WireProtocol.OPENAI,
        "base_url": base_url,
        "credential": "secret",
        "provider_model": "theirs",
        "timeouts": Timeouts(connect_s=20, first_byte_s=60, idle_s=60, total_s=90),
        "price": PriceVersion(rates=Rates(), cost=Rates()),
        "bounds": Bounds(),
    }
    return Route(**{**given, **fields})
