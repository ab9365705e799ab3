"""Where one attempt goes: router's decision in the form that the wires read. A plain value; it chooses nothing."""

import dataclasses
import enum
import time

from pricing.prices import PriceVersion
from upstream.client import Timeouts


class WireProtocol(enum.StrEnum):
    """What a provider speaks."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"
    SANDBOX = "sandbox"
    LOCAL = "local"
    PREDICTIONS = "predictions"


class OnDisconnect(enum.StrEnum):
    """What becomes of a stream whose client has left."""

    DRAIN = "drain"
    CANCEL = "cancel"
    ABSORB = "absorb"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What bounds a request's worst case, in tokens. 0 as `context` or `max_output` means unknown."""

    context: int = 0
    max_output: int = 0
    template_tokens: int = 0
    max_part_tokens: int = 0
    hidden_output: int = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One attempt's provider account, its limits and the price that holds for the request.

    `model` is the public id (aliases resolved), `provider_model` what the provider calls it. `credential` is for this
    attempt only: it is not shown by repr, is never logged and is kept no longer than the attempt.
    `without_stream_options` is for providers that refuse that field. `decided_s` (monotonic) is when we heard of it.
    """

    attempt_id: str
    model: str
    provider_id: str
    provider_account_id: str
    protocol: WireProtocol
    base_url: str
    credential: str = dataclasses.field(repr=False)
    provider_model: str
    timeouts: Timeouts
    price: PriceVersion
    bounds: Bounds
    max_tokens_field: str = "max_tokens"
    on_disconnect: OnDisconnect = OnDisconnect.DRAIN
    drain_s: float = 60.0
    drain_at_once: int = 100
    may_retry: bool = False
    without_stream_options: bool = False
    decided_s: float = dataclasses.field(default_factory=time.monotonic, compare=False)
