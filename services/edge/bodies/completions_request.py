"""The body of a legacy completion: some prompts, each answered `n` times.

What is generated but not shown is refused: `best_of` beyond `n`. A client that sets no `max_tokens` gets as many as
OpenAI gives it, 16.
"""

import dataclasses
from collections.abc import Iterable
from typing import Annotated

import msgspec
from msgspec import Meta

from chassis.errors import Code, TollbridgeError
from services.edge.bodies.request_body import decode_body, top_level
from services.edge.paid.paid_request import PaidRequest

USUAL_MAX_TOKENS = 16
MOST_ANSWERS = 2048
"""To all prompts together: a body of a few megabytes could ask for a billion."""
_Penalty = Annotated[float, Meta(ge=-2, le=2)]
_Choices = Annotated[int, Meta(ge=1, le=128)]
_Prompts = Annotated[list[str | int | list[int]], Meta(min_length=1)]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CompletionRequest(PaidRequest):
    """`echoed` are the texts that the answers begin with, once for each answer."""

    echoed: tuple[str, ...] = ()


class _StreamOptions(msgspec.Struct, frozen=True):
    include_usage: bool | None = None


class CompletionsBody(msgspec.Struct, frozen=True, kw_only=True):
    """`prompt` is a text, some texts, a text's tokens, or those of some texts."""

    model: Annotated[str, Meta(min_length=1, max_length=256)]
    prompt: str | _Prompts
    n: _Choices | None = None
    best_of: _Choices | None = None
    max_tokens: Annotated[int, Meta(ge=1, le=1 << 40)] | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Meta(ge=0)] | None = None
    suffix: str | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    presence_penalty: _Penalty | None = None
    frequency_penalty: _Penalty | None = None
    logit_bias: dict[str, float] | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    user: str | None = None


_DECODER = msgspec.json.Decoder(CompletionsBody)


def parse_completion(body: bytes, headers: Iterable[tuple[bytes, bytes]] = ()) -> PaidRequest:
    """Checks the body. Raises INVALID_REQUEST with `param` where a field is to blame."""
    found = decode_body(body, _DECODER)
    each = found.n or 1
    if found.best_of is not None and found.best_of > each:
        message = "best_of may not be more than n: what is not shown would have to be paid too."
        raise TollbridgeError(Code.INVALID_REQUEST, message, details={"param": "best_of"})
    fields = dict(top_level(body))
    fields.pop("best_of", None)
    prompts = [found.prompt] if isinstance(found.prompt, str) or isinstance(found.prompt[0], int) else found.prompt
    if each * len(prompts) > MOST_ANSWERS:
        message = f"prompt has {len(prompts)} prompts, {each} answers each: at most {MOST_ANSWERS} answers are given."
        raise TollbridgeError(Code.INVALID_REQUEST, message, details={"param": "prompt"})
    return CompletionRequest(
        body=body,
        fields=fields,
        model=found.model,
        stream=bool(found.stream),
        include_usage=bool(found.stream_options and found.stream_options.include_usage),
        choices=each * len(prompts),
        asked_tokens=found.max_tokens or USUAL_MAX_TOKENS,
        echoed=tuple(prompt for prompt in prompts for _ in range(each) if isinstance(prompt, str) and found.echo),
    )
