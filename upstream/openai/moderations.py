"""OpenAI's moderations: the call, and its answer. What was found is relayed as the provider wrote it."""

import dataclasses
from collections.abc import Mapping

import msgspec

from pricing.tokens import Tokens
from upstream.client import HttpCall
from upstream.openai.chat import decode_fields, json_call
from upstream.openai.errors import error_failure, read_error
from upstream.openai.usage_block import UsageBlock
from upstream.outcome import ProviderMisbehaved
from upstream.route import Route
from upstream.usage import Captured, UsageLimits

_NULL = b"null"


def prepare(body: Mapping[str, object], route: Route, *, request_id: str) -> HttpCall:
    """The provider's call for a client's request; fields that we don't know travel on."""
    fields = {**body, "model": route.provider_model}
    return json_call(route, "/moderations", fields, request_id=request_id, is_rare=True)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ModerationAnswer:
    """An answer, read. `usage` is None where the provider says nothing of it, as OpenAI does."""

    captured: Captured
    fields: dict[str, msgspec.Raw]
    usage: UsageBlock | None
    model: str

    def render(self, *, tokens: Tokens, cost: str | None) -> bytes:
        """The body for the client, with the public model id, and `cost` in its usage if it has one."""
        shown = {**self.fields, "model": self.model}
        if self.usage is not None:
            shown["usage"] = self.usage.render(tokens=tokens, cost=cost)
        return msgspec.json.encode(shown)

    def text(self) -> str:
        """Nothing is generated."""
        return ""


def read_answer(body: bytes, *, model: str, limits: UsageLimits | None = None) -> ModerationAnswer:
    """Reads an answer with status 2xx. Raises AttemptFailed when it is an error after all, or says nothing."""
    try:
        fields = decode_fields(body)
        results = msgspec.json.decode(fields.get("results", _NULL), type=list[msgspec.Raw] | None)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProviderMisbehaved("the provider's answer is no moderation") from error
    if not results:
        if bytes(fields.get("error", _NULL)) != _NULL:
            raise error_failure(*read_error(fields["error"]))
        raise ProviderMisbehaved("the provider's answer is no moderation")
    usage = UsageBlock(limits)
    told = fields.pop("usage", None)
    usage.read(told if told is not None else _NULL)
    captured = Captured(
        tokens=usage.tokens,
        so_far=usage.tokens,
        reported_cost_nano_usd=usage.reported_cost_nano_usd,
        finish_reason="stop",
        complete=True,
        implausible=usage.implausible,
        beyond_input=usage.beyond_input,
    )
    return ModerationAnswer(captured=captured, fields=fields, usage=usage if told is not None else None, model=model)
