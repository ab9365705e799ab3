"""Anthropic's `usage` object: read into token classes as it accumulates, and written in its shape.

Some providers of this protocol report their own cost in it, which is read as OpenAI's providers' is and never shown.
"""

from collections.abc import Mapping

import msgspec

from pricing.tokens import ImplausibleUsage, Tokens, from_anthropic
from upstream.openai.usage_block import render_usage
from upstream.usage import Captured, InputBeyondBounds, UsageLimits, bound_usage, cost_nano_usd, exact_number

_HIDDEN = ("cost", "cost_details", "is_byok")
_NO_COUNTS: dict[str, object] = {
    "input_tokens": 0,
    "cache_creation_input_tokens": 0,
    "cache_read_input_tokens": 0,
    "output_tokens": 0,
}
_DECODER = msgspec.json.Decoder(dict[str, object] | None, float_hook=exact_number)


class UsageSoFar:
    """The usage as it accumulates: later counts replace earlier ones, absent ones stay."""

    def __init__(self, limits: UsageLimits | None) -> None:
        self._limits = limits
        self._usage: dict[str, object] = {}
        self._final = self._garbled = False

    def add(self, raw: msgspec.Raw, *, final: bool) -> None:
        """Takes a usage object in; `final` when its output count is the whole output."""
        try:
            usage = _DECODER.decode(raw) or {}
        except (msgspec.DecodeError, UnicodeDecodeError, ArithmeticError, RecursionError):
            self._garbled = True
            return
        self._usage.update({name: value for name, value in usage.items() if value is not None})
        self._final = self._final or (final and usage.get("output_tokens") is not None)

    def captured(
        self, *, generation_id: str, finish_reason: str, complete: bool, error: str | None, error_status: int | None
    ) -> Captured:
        """The capture with these counts in it, so far as they can be believed."""
        tokens, doubt = self._tokens()
        cost, cost_doubt = self._cost()
        is_whole = complete and self._final
        return Captured(
            tokens=tokens if is_whole else None,
            so_far=tokens,
            reported_cost_nano_usd=cost if is_whole and tokens is not None else None,
            generation_id=generation_id,
            finish_reason=finish_reason,
            complete=complete,
            error=error,
            error_status=error_status,
            implausible=doubt is not None or cost_doubt or self._garbled,
            beyond_input=isinstance(doubt, InputBeyondBounds),
        )

    def render(self, tokens: Tokens, cost: str | None, *, own: bool) -> msgspec.Raw:
        """The object for the client: the provider's `own`, if that is what is charged, else one made of `tokens`."""
        shown = {name: value for name, value in self._usage.items() if name not in _HIDDEN}
        return render_usage({**_NO_COUNTS, **(shown if own else usage_object(tokens))}, cost)

    def _tokens(self) -> tuple[Tokens | None, ImplausibleUsage | None]:
        if "input_tokens" not in self._usage:  # a zero has to be said
            return None, None
        try:
            tokens = from_anthropic(self._usage)
            return (tokens if self._limits is None else bound_usage(tokens, self._limits)), None
        except ImplausibleUsage as error:
            return None, error

    def _cost(self) -> tuple[int | None, bool]:
        """The reported cost, and whether it is one that can't be: then the list price stands in for it."""
        try:
            return cost_nano_usd(self._usage), False
        except (ImplausibleUsage, ArithmeticError):
            return None, True


def usage_object(tokens: Tokens) -> Mapping[str, object]:
    """`tokens` in Anthropic's shape, where cache reads and writes stand beside the input."""
    return {
        "input_tokens": tokens.input + tokens.audio_input + tokens.image_input,
        "cache_creation_input_tokens": tokens.cache_write + tokens.cache_write_1h,
        "cache_read_input_tokens": tokens.cached_input,
        "output_tokens": tokens.completion,
        "output_tokens_details": {"thinking_tokens": tokens.reasoning},
    }
