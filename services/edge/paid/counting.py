"""Counts that stand in where a provider reports none: exact tokenizer, in a thread, never on the loop."""

import asyncio
from collections.abc import Callable

from msgspec.structs import replace

from pricing.tokens import Tokens
from services.edge.paid.paid_request import PaidRequest
from services.edge.spending.settlement import EVIDENCE_COUNTED, Use
from upstream.usage import Captured, UsageLimits, count_tokens


async def counted(
    *, request: PaidRequest, text: Callable[[], str], provider_model: str, captured: Captured, limits: UsageLimits
) -> Use:
    """What a request used, counted: its prompt (or what the provider said of it so far) and the delivered `text`.

    Never more than what was reserved: a tokenizer that disagrees with the provider's is our loss. Images, sounds and
    files can't be counted here. They are taken for the model's limit for each; and for all that was reserved for them
    when the provider says that there was more input than that.
    """
    tokens = await asyncio.to_thread(_count, request, text, provider_model, captured, limits)
    return Use(
        tokens=tokens,
        units=captured.units,
        evidence=EVIDENCE_COUNTED,
        generation_id=captured.generation_id,
        implausible=captured.implausible,
    )


def _count(
    request: PaidRequest, text: Callable[[], str], model: str, captured: Captured, limits: UsageLimits
) -> Tokens:
    so_far = captured.so_far
    output = min(count_tokens(text(), model), limits.max_output)
    made = min(captured.sound_tokens, limits.max_output - output)
    if so_far is not None and so_far.prompt:
        # Input is known by class from the stream's start: what was read from a cache must not cost as if it were not.
        return replace(so_far, output=output, reasoning=0, audio_output=made)
    parts = limits.part_tokens if captured.beyond_input else limits.usual_part_tokens
    prompt = min(request.prompt_tokens(model) + parts, limits.max_input)
    sound = min(request.sound_tokens, prompt)
    return Tokens(input=prompt - sound, audio_input=sound, output=output, audio_output=made)
