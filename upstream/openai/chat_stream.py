"""The hot path of a chat stream in OpenAI's shape: what the provider sends becomes what the client gets.

A read that is made of plain content events leaves as it came, but for the model's name; only events that say something
about the stream (the first ones, the finish, usage, errors) are parsed. What decides that is a handful of searches for
`"key"` with both quotes: inside a JSON string a quote is escaped, so such a match is a key or a whole value, never
text of the answer.
"""

from collections.abc import Mapping
from typing import ClassVar

import msgspec

from pricing.tokens import Tokens
from upstream.kept_text import KeptText
from upstream.openai.call_numbers import CallNumbers
from upstream.openai.errors import read_error
from upstream.openai.shapes import lacks_head, made_head, mend_content, mend_role, with_head
from upstream.openai.usage_block import UsageBlock
from upstream.outcome import ProviderMisbehaved
from upstream.sse import EventSplitter, data_of, is_error
from upstream.usage import Captured, UsageLimits
from upstream.whole_signs import may_hold_halves

MOST_CHOICES = 2048
"""As many as all prompts of a legacy completion may have."""
KEPT_BYTES = 256 * 1024
"""Delivered events are kept as bytes up to here, then as their text: a long stream is kept at the size of its words."""
_END_EVENTS = (b"data: [DONE]", b"data:[DONE]")
_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_NULL = b"null"
_ERROR_OBJECT = b'"error"'
"""Some say so that the event itself is the error."""


FAILED = "error"
"""The finish by which some providers say that they broke off."""
_CHOICES = msgspec.json.Decoder(list[dict[str, object]] | None)
_PART_TEXTS = ("text", "thinking", "refusal")
_MOST_LEVELS = 8
"""No provider puts parts into parts so often."""
_DELTA_TEXTS = ("content", "reasoning_content", "refusal")


class ChatStream:
    """One stream's `StreamReader`. `model` is the public id that takes the place of the provider's.

    `kind` is what its chunks are, `nothing_more` what stands in one for no text, `text_begins` where text does.
    Without `mends_finish` a `stop` after calls stays one.
    """

    kind: ClassVar[str] = "chat.completion.chunk"
    nothing_more: ClassVar[Mapping[str, object]] = {"delta": {}}
    text_begins: ClassVar[tuple[bytes, bytes]] = (b'"delta":', b"{")
    __slots__ = (
        "_calls",
        "_done",
        "_error",
        "_error_status",
        "_fast_from",
        "_fast_list",
        "_fast_no_usage",
        "_fast_open",
        "_fast_said",
        "_fast_to",
        "_finishes",
        "_generation_id",
        "_head",
        "_include_usage",
        "_keeping",
        "_kept",
        "_kept_bytes",
        "_kept_text",
        "_made",
        "_mends_finish",
        "_model",
        "_opened",
        "_splitter",
        "_usage",
        "has_content",
    )

    def __init__(
        self, *, model: str, include_usage: bool, limits: UsageLimits | None = None, mends_finish: bool = True
    ) -> None:
        self._mends_finish = mends_finish
        self._model = msgspec.Raw(msgspec.json.encode(model))
        self._include_usage = include_usage
        self._splitter = EventSplitter()
        self._usage = UsageBlock(limits)
        self._head: dict[str, msgspec.Raw] = {}
        self._made: dict[str, msgspec.Raw] = {}
        self._fast_from = self._fast_to = self._fast_open = self._fast_no_usage = b""
        self._fast_list = self._fast_said = b""
        self._generation_id = ""
        self._calls: dict[int, CallNumbers] = {}
        self._finishes: dict[int, str] = {}
        self._opened: set[int] = set()
        self._done = False
        self._error: str | None = None
        self._error_status: int | None = None
        self._kept: list[bytes] = []
        self._kept_bytes = 0
        self._kept_text = KeptText(limits)
        self._keeping = True
        self.has_content = False

    @property
    def ended(self) -> bool:
        """True once the end mark or an error was seen."""
        return self._done or self._error is not None

    def feed(self, data: bytes) -> bytes:
        """The bytes to relay for one read. Raises ProviderMisbehaved."""
        name = self._fast_from
        if (
            name
            and data[-3:] == b"}\n\n"
            and data[:7] == b"data: {"
            and b'"error"' not in data
            and b'"tool_calls"' not in data
            and b'"role"' not in data
            and self._splitter.between_events
        ):
            events = data.count(b"\n\n")
            if (
                data.count(b"\n") == 2 * events
                and (events == 1 or data.count(b"}\n\ndata: {") == events - 1)
                and data.count(name) == events == data.count(b'"model"') == data.count(self._fast_said)
                and self._fast_list not in data
                and data.count(b'"finish_reason"') == data.count(self._fast_open)
                and (b'"usage"' not in data or data.count(b'"usage"') == data.count(self._fast_no_usage))
                and not may_hold_halves(data)
                and _is_utf8(data)
            ):
                out = data.replace(name, self._fast_to)
                if self._keeping:
                    self._keep(out)
                return out
        return self._feed_slowly(data)

    def finish(self) -> Captured:
        """What was captured so far."""
        at_end = self._done or self._finished or self._splitter.rest.strip() in _END_EVENTS
        complete = self._error is None and at_end
        usage = self._usage
        return Captured(
            tokens=usage.tokens if complete else None,
            so_far=usage.tokens,
            reported_cost_nano_usd=usage.reported_cost_nano_usd,
            generation_id=self._generation_id,
            finish_reason=next(iter(self._finishes.values()), ""),
            complete=complete,
            error=self._error,
            error_status=self._error_status,
            implausible=usage.implausible,
            beyond_input=usage.beyond_input,
        )

    @property
    def _finished(self) -> bool:
        return bool(self._finishes) and self._opened <= self._finishes.keys()

    def closing(self, *, tokens: Tokens, cost: str | None, cut: bool = False) -> bytes:
        """The finish of a stream that was cut at its total time, the usage chunk, if asked for, the end."""
        out = b""
        if cut and not self._finishes:
            stop = {"index": 0, **self.nothing_more, "logprobs": None, "finish_reason": "length"}
            out = _event({**self._chunk_head(), "choices": msgspec.Raw(msgspec.json.encode([stop]))})
        if self._include_usage:
            usage = self._usage.render(tokens=tokens, cost=cost)
            out += _event({**self._chunk_head(), "choices": msgspec.Raw(b"[]"), "usage": usage})
        return out + b"data: [DONE]\n\n"

    def stop_delivery(self) -> None:
        """From now on nothing counts as delivered."""
        self._keeping = False

    def delivered_text(self) -> str:
        """All text handed out so far, as far as it can be charged. Parses what was kept: call it off the loop."""
        return "".join([self._kept_text.text(), *_texts(self._kept)])

    def _feed_slowly(self, data: bytes) -> bytes:
        out: list[bytes] = []
        for event in self._splitter.feed(data):
            if self.ended:
                break
            out.append(self._event(event))
        relayed = b"".join(out)
        if self._keeping and relayed:
            self._keep(relayed)
        return relayed

    def _event(self, event: bytes) -> bytes:
        payload = data_of(event)
        if payload is None:
            return b":\n\n" if event.startswith(b":") else b""
        payload = payload.strip()
        if payload == b"[DONE]":
            self._done = True
            self._fast_from = b""  # nothing that follows is relayed, however plain it looks
            return b""
        if not payload:
            return b""
        try:
            fields = _FIELDS.decode(payload)
            return self._chunk(fields, payload, failed=is_error(event))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            if self._finished:  # all of the answer is there: at most its usage is lost
                return b""
            raise ProviderMisbehaved("the provider sent an event that is no chat chunk") from error

    def _chunk(self, fields: dict[str, msgspec.Raw], payload: bytes, *, failed: bool) -> bytes:
        error = fields.get("error", _NULL)
        if failed or bytes(error) != _NULL or bytes(fields.get("object", _NULL)) == _ERROR_OBJECT:
            self._fail(payload if bytes(error) == _NULL else error)
            return b""
        usage = fields.get("usage")
        if usage is not None and bytes(usage) != _NULL:
            self._usage.read(fields.pop("usage"))
        choices = _CHOICES.decode(fields.get("choices", b"[]")) or []
        mended = False
        for choice in choices:
            if choice.get("finish_reason") == FAILED:
                self._fail(msgspec.json.encode(choice.get("error")))
                return b""
            mended = self._choice(choice) or mended
        if mended:
            fields["choices"] = msgspec.Raw(msgspec.json.encode(choices))
        self._generation_id = self._generation_id or _text_of(fields.get("id"))
        if beheaded := lacks_head(fields):
            self._made = self._made or made_head(self.kind)
            fields = with_head(fields, kind=self.kind, made={**self._made, **self._head})
        if self._head.get("id") in (None, self._made.get("id")):  # none yet, or ours until the provider has one
            self._begin(fields)
        if not choices and usage is not None and bytes(usage) != _NULL:
            return b""
        theirs = fields.get("model")
        fields["model"] = self._model
        if self.has_content and theirs is not None and not beheaded:
            self._learn(bytes(theirs), payload)
        return _event(fields)

    def _begin(self, fields: dict[str, msgspec.Raw]) -> None:
        """Keeps what every chunk of ours must repeat."""
        kept = ("id", "object", "created", "system_fingerprint", "service_tier")
        # A copy: a Raw is a view that would hold the whole event.
        self._head = {name: msgspec.Raw(bytes(fields[name])) for name in kept if name in fields}

    def _choice(self, choice: dict[str, object]) -> bool:
        """Takes a choice in; whether it had to be mended."""
        index = choice.get("index")
        number = index if isinstance(index, int) else 0
        calls = self._calls.get(number)
        if calls is None:
            if len(self._calls) >= MOST_CHOICES:
                raise ProviderMisbehaved("the provider's answer has more choices than any request may ask for")
            calls = self._calls[number] = CallNumbers(mends_finish=self._mends_finish)
        mended = mend_content(choice.get("delta"))
        for name, nothing in self.nothing_more.items():
            if choice.get(name) is None:
                choice[name] = nothing
                mended = True
        mended = mend_role(choice, is_first=number not in self._opened) or mended
        mended = calls.mend(choice) or mended
        finish = choice.get("finish_reason")
        self._opened.add(number)
        if isinstance(finish, str):
            self._finishes[number] = finish
        self.has_content = self.has_content or isinstance(finish, str) or bool(_said(choice))
        return mended

    def _learn(self, theirs: bytes, payload: bytes) -> None:
        """Remembers how this provider writes its model's name, so that it can be replaced without parsing."""
        for space in (b"", b" "):
            written = b'"model":' + space + theirs
            if payload.count(written) == 1:
                self._fast_from, self._fast_to = written, b'"model":' + bytes(self._model)
                self._fast_open = b'"finish_reason":' + space + _NULL
                self._fast_no_usage = b'"usage":' + space + _NULL
                self._fast_list = b'"content":' + space + b"["
                self._fast_said = space.join(self.text_begins)

    def _fail(self, raw: msgspec.Raw | bytes) -> None:
        self._error, self._error_status = read_error(raw)
        self._fast_from = b""

    def _chunk_head(self) -> dict[str, msgspec.Raw]:
        kind = {"object": msgspec.Raw(msgspec.json.encode(self.kind))}
        return {**kind, **self._head, "model": self._model}

    def _keep(self, out: bytes) -> None:
        self._kept.append(out)
        self._kept_bytes += len(out)
        if self._kept_bytes > KEPT_BYTES:
            self._kept_text.add("".join(_texts(self._kept)))
            self._kept = []
            self._kept_bytes = 0
            self._keeping = not self._kept_text.is_full


def texts_of(message: object) -> list[str]:
    """Every text in a message or delta that a token was paid for: content, reasoning, refusal, speech, tool calls."""
    if not isinstance(message, dict):
        return []
    found: list[str] = []
    for name in _DELTA_TEXTS:
        found += _flat(message.get(name))
    if not message.get("reasoning_content"):
        found += _flat(message.get("reasoning"))
    speech = message.get("audio")
    if isinstance(speech, dict):
        found += _flat(speech.get("transcript"))
    calls = message.get("tool_calls")
    known = [call for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []
    functions = [call.get(kind) for call in known for kind in ("function", "custom")]
    for function in (*functions, message.get("function_call")):
        if isinstance(function, dict):
            found += [text for name in ("name", "arguments", "input") for text in _flat(function.get(name))]
    return found


def _said(choice: Mapping[str, object]) -> list[str]:
    """The texts of a choice in a stream: of its delta, or its own in a legacy completion."""
    return texts_of(choice.get("delta")) or _flat(choice.get("text"))


def _flat(content: object, *, levels: int = _MOST_LEVELS) -> list[str]:
    """The texts of a content that is a text, or a list of parts (some providers stream reasoning so)."""
    if isinstance(content, str):
        return [content] if content else []
    if not isinstance(content, list) or not levels:
        return []
    values = [part.get(name) for part in content if isinstance(part, dict) for name in _PART_TEXTS]
    return [text for value in values for text in _flat(value, levels=levels - 1)]


def _texts(kept: list[bytes]) -> list[str]:
    """The texts in events that we have made ourselves, one for each choice: torn apart they would be more tokens."""
    by_choice: dict[int, list[str]] = {}
    for event in b"".join(kept).split(b"\n\n"):
        if not event.startswith(b"data: {"):
            continue
        try:
            choices = _CHOICES.decode(_FIELDS.decode(event[6:]).get("choices", b"[]")) or []
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            continue  # it was relayed unread, and what can't be read can't be counted
        for choice in choices:
            index = choice.get("index")
            number = index if isinstance(index, int) else 0
            by_choice.setdefault(number, []).extend(_said(choice))
    return ["".join(texts) for texts in by_choice.values()]


def _is_utf8(data: bytes) -> bool:
    if data.isascii():
        return True
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _event(fields: dict[str, msgspec.Raw]) -> bytes:
    return b"data: " + msgspec.json.encode(fields) + b"\n\n"


def _text_of(raw: msgspec.Raw | None) -> str:
    try:
        value: object = msgspec.json.decode(raw) if raw is not None else ""
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""
    return value[:200] if isinstance(value, str) else ""
