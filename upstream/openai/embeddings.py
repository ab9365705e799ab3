"""OpenAI's embeddings: the call, and its answer.

The vectors are relayed as the provider wrote them, but for numbers where the client asked for base64: OpenAI's SDK for
Node asks so by itself and takes whatever comes for base64, and many providers don't know that format.
"""

import base64
import dataclasses
import struct
from collections.abc import Mapping

import msgspec

from pricing.tokens import Tokens
from upstream.client import HttpCall
from upstream.openai.chat import decode_fields, json_call
from upstream.openai.errors import error_failure, read_error
from upstream.openai.usage_block import UsageBlock, render_usage
from upstream.outcome import ProviderMisbehaved
from upstream.route import Route
from upstream.usage import Captured, UsageLimits

_NULL = b"null"


class _Numbers(msgspec.Struct, frozen=True):
    embedding: list[float]


_NUMBERS = msgspec.json.Decoder(_Numbers)
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def prepare(body: Mapping[str, object], route: Route, *, request_id: str) -> HttpCall:
    """The provider's call for a client's request; fields that we don't know travel on."""
    return json_call(route, "/embeddings", {**body, "model": route.provider_model}, request_id=request_id)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingsAnswer:
    """An answer, read."""

    captured: Captured
    fields: dict[str, msgspec.Raw]
    model: str

    def render(self, *, tokens: Tokens, cost: str | None) -> bytes:
        """The body for the client, with the public model id and `cost` in its usage."""
        usage = render_usage({"prompt_tokens": tokens.prompt, "total_tokens": tokens.prompt}, cost)
        return msgspec.json.encode({**self.fields, "model": self.model, "usage": usage})

    def text(self) -> str:
        """Nothing is generated."""
        return ""


def read_answer(
    body: bytes, *, model: str, limits: UsageLimits | None = None, as_base64: bool = False
) -> EmbeddingsAnswer:
    """Reads an answer with status 2xx. Raises AttemptFailed when it is an error after all, or holds no vectors."""
    try:
        fields = decode_fields(body)
        vectors = msgspec.json.decode(fields.get("data", _NULL), type=list[msgspec.Raw] | None)
    except _UNREADABLE as error:
        raise ProviderMisbehaved("the provider's answer holds no embeddings") from error
    if not vectors:
        if bytes(fields.get("error", _NULL)) != _NULL:
            raise error_failure(*read_error(fields["error"]))
        raise ProviderMisbehaved("the provider's answer holds no embeddings")
    if as_base64:
        fields["data"] = msgspec.Raw(msgspec.json.encode([_in_base64(vector) for vector in vectors]))
    usage = UsageBlock(limits)
    usage.read(_with_output(fields.pop("usage", _NULL)))
    captured = Captured(
        tokens=usage.tokens,
        so_far=usage.tokens,
        reported_cost_nano_usd=usage.reported_cost_nano_usd,
        finish_reason="stop",
        complete=True,
        implausible=usage.implausible,
        beyond_input=usage.beyond_input,
    )
    return EmbeddingsAnswer(captured=captured, fields=fields, model=model)


def _in_base64(raw: msgspec.Raw) -> msgspec.Raw:
    """An embedding whose numbers are written as OpenAI writes them in base64: little-endian, four bytes each."""
    try:
        numbers = _NUMBERS.decode(raw).embedding
        written = base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()
        return msgspec.Raw(msgspec.json.encode({**decode_fields(bytes(raw)), "embedding": written}))
    except (*_UNREADABLE, struct.error, OverflowError):
        return raw  # it is in base64 already, or nothing that could be


def _with_output(raw: msgspec.Raw | bytes) -> bytes:
    """A usage object with an output of zero: nobody names what embeddings don't have. Some name their total only."""
    try:
        usage = decode_fields(bytes(raw))
    except _UNREADABLE:
        return bytes(raw)  # null, or no object: it is for the reader to say so
    said = {name: value for name, value in usage.items() if bytes(value) != _NULL}
    total = {"prompt_tokens": said["total_tokens"]} if "total_tokens" in said else {}
    return msgspec.json.encode({"completion_tokens": 0, **total, **said})
