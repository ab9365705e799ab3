"""OpenAI's `usage` object: read into token classes, and written for the client with our cost in it.

The provider's own cost and what belongs to it are taken out: what the client sees is what the client pays.
"""

from collections.abc import Mapping

import msgspec

from pricing.tokens import ImplausibleUsage, Tokens, from_openai
from upstream.usage import InputBeyondBounds, UsageLimits, bound_usage, cost_nano_usd, exact_number

HIDDEN = ("cost", "cost_details", "is_byok", "estimated_cost", "cost_in_usd_ticks")
_ENCODER = msgspec.json.Encoder(decimal_format="number")
_DECODER = msgspec.json.Decoder(dict[str, object], float_hook=exact_number)


class UsageBlock:
    """The last usage object that an answer carried, and what can be believed of it."""

    __slots__ = ("_limits", "_shown", "beyond_input", "implausible", "reported_cost_nano_usd", "tokens")

    def __init__(self, limits: UsageLimits | None) -> None:
        self._limits = limits
        self._shown: dict[str, object] = {}
        self.tokens: Tokens | None = None
        self.reported_cost_nano_usd: int | None = None
        self.implausible = self.beyond_input = False

    def read(self, raw: msgspec.Raw | bytes) -> None:
        """Takes a usage object in; a later one replaces an earlier one. `null` or none without counts says nothing.

        A zero has to be said: where only one of the two totals is, the use has to be counted.
        """
        if bytes(raw) == b"null":
            return
        try:
            usage = _DECODER.decode(raw)
            said = [usage.get(name) is not None for name in ("prompt_tokens", "completion_tokens")]
            if not any(said):
                return
            tokens = from_openai(usage)
            if self._limits is not None:
                bound_usage(tokens, self._limits)
        except (ImplausibleUsage, msgspec.DecodeError, UnicodeDecodeError, ArithmeticError, RecursionError) as error:
            self.beyond_input = isinstance(error, InputBeyondBounds)
            self.tokens = self.reported_cost_nano_usd = None
            self.implausible = True
            return
        self.implausible = self.beyond_input = False
        self._read_cost(usage)
        self._shown = {name: value for name, value in usage.items() if name not in HIDDEN}
        self.tokens = tokens if all(said) else None

    def _read_cost(self, usage: Mapping[str, object]) -> None:
        """A cost that can't be takes nothing from the counts: the list price stands in for it."""
        try:
            self.reported_cost_nano_usd = cost_nano_usd(usage)
        except (ImplausibleUsage, ArithmeticError):
            self.reported_cost_nano_usd = None
            self.implausible = True

    def render(self, *, tokens: Tokens, cost: str | None) -> msgspec.Raw:
        """The object for the client: the provider's own, if that is what is charged, else one made of `tokens`."""
        shown: Mapping[str, object] = self._shown if tokens == self.tokens else usage_object(tokens)
        return render_usage(shown, cost)


def render_usage(shown: Mapping[str, object], cost: str | None) -> msgspec.Raw:
    """A usage object as JSON, with `cost` (a JSON number in USD) in it."""
    extra = {} if cost is None else {"cost": msgspec.Raw(cost.encode())}
    return msgspec.Raw(_ENCODER.encode({**shown, **extra}))


def usage_object(tokens: Tokens) -> dict[str, object]:
    """`tokens` in OpenAI's shape, where details are parts of the totals."""
    prompt: dict[str, object] = {"cached_tokens": tokens.cached_input}
    if tokens.cache_write or tokens.cache_write_1h:
        prompt["cache_write_tokens"] = tokens.cache_write + tokens.cache_write_1h
    if tokens.audio_input:
        prompt["audio_tokens"] = tokens.audio_input
    completion: dict[str, object] = {"reasoning_tokens": tokens.reasoning}
    if tokens.audio_output:
        completion["audio_tokens"] = tokens.audio_output
    return {
        "prompt_tokens": tokens.prompt,
        "completion_tokens": tokens.completion,
        "total_tokens": tokens.prompt + tokens.completion,
        "prompt_tokens_details": prompt,
        "completion_tokens_details": completion,
    }
