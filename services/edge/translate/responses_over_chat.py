"""A chat's answer as a response: whole, and as the stream of numbered events that the Responses API has.

What is read is a chat in OpenAI's words, whichever protocol the provider speaks: an inner reader has made it so. It
also knows what was delivered and captured; here only the shape changes. The last events are made in `closing`, when the
charge is known.
"""

import dataclasses
import time
from collections.abc import Mapping

import msgspec

from chassis.ids import uuid7
from pricing.tokens import Tokens
from services.edge.bodies.responses_fields import Tool
from services.edge.dialects import ErrorView
from services.edge.translate.response_items import COMPLETED, INCOMPLETE, Json, OutputItems
from services.edge.translate.tool_names import named_tools, own_names, unmistakable
from upstream.kept_text import TextRoom
from upstream.openai.usage_block import render_usage
from upstream.outcome import ProviderMisbehaved
from upstream.sse import data_of
from upstream.usage import Answer, Captured, StreamReader, UsageLimits

_CUT = {"length": "max_output_tokens", "content_filter": "content_filter"}
"""Why an answer is incomplete, by chat's reason to finish."""
_ASKED: Mapping[str, object] = {
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "prompt_cache_key": None,
    "reasoning": {"effort": None, "summary": None},
    "safety_identifier": None,
    "temperature": None,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": None,
    "user": None,
}
"""What a response repeats of its request, and what it says where the request left it out."""
_TOOLS = msgspec.json.Decoder(list[Tool])
_RAWS = msgspec.json.Decoder(list[msgspec.Raw])
_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_CHUNK = msgspec.json.Decoder(dict[str, object])


class ResponseHead:
    """One response but for its output and its end."""

    def __init__(self, request_body: bytes, *, model: str) -> None:
        asked = _FIELDS.decode(request_body)
        given = {name: asked[name] for name in _ASKED if name in asked and bytes(asked[name]) != b"null"}
        self.hexes = uuid7().hex
        reasoning = msgspec.json.decode(given.get("reasoning", b"{}"), type=dict[str, object])
        self.summarizes = bool(reasoning.get("summary") or reasoning.get("generate_summary"))
        tools = _TOOLS.decode(given.get("tools", b"[]"))
        self.names = own_names(tools)
        self.whole_names = unmistakable(name for name, _, _ in named_tools(tools))
        shown = _RAWS.decode(given.pop("tools", b"[]"))
        offered = [raw for tool, raw in zip(tools, shown, strict=True) if not tool.is_dispensable]
        self._fields: Json = {
            "id": f"resp_{self.hexes}",
            "object": "response",
            "created_at": int(time.time()),
            "model": model,
            **_ASKED,
            **given,
            "tools": offered,
            "background": False,
            "previous_response_id": None,
            "store": False,
            "truncation": "disabled",
        }

    def shown(self, *, status: str, output: list[Json], **more: object) -> Json:
        """The response as it is now."""
        end = {"completed_at": None, "error": None, "incomplete_details": None, "usage": None}
        return {**self._fields, "status": status, "output": output, **end, **more}

    def ended(self, *, output: list[Json], cut: str | None, tokens: Tokens, cost: str | None) -> Json:
        """The response at its end; `cut` is why it is incomplete."""
        usage = render_usage(usage_object(tokens), cost)
        if cut is not None:
            return self.shown(status=INCOMPLETE, output=output, incomplete_details={"reason": cut}, usage=usage)
        return self.shown(status=COMPLETED, output=output, completed_at=int(time.time()), usage=usage)


def usage_object(tokens: Tokens) -> Json:
    """`tokens` as the Responses API counts them: details are parts of the totals."""
    return {
        "input_tokens": tokens.prompt,
        "input_tokens_details": {
            "cached_tokens": tokens.cached_input,
            "cache_write_tokens": tokens.cache_write + tokens.cache_write_1h,
        },
        "output_tokens": tokens.completion,
        "output_tokens_details": {"reasoning_tokens": tokens.reasoning},
        "total_tokens": tokens.prompt + tokens.completion,
    }


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ResponseOfChat:
    """A whole chat completion, as the response that it is for the client."""

    chat: Answer
    head: ResponseHead

    @property
    def captured(self) -> Captured:
        """What it said about itself."""
        return self.chat.captured

    def render(self, *, tokens: Tokens, cost: str | None) -> bytes:
        """The body for the client, with `cost` in its usage."""
        fields = _FIELDS.decode(self.chat.render(tokens=tokens, cost=None))
        # Only what was read when the answer came: what else is in it nobody has looked at, and it may not be readable.
        choice = _first_choice({"choices": msgspec.json.decode(fields["choices"])})
        items = OutputItems(
            hexes=self.head.hexes, emit=_unheard, summarizes=self.head.summarizes, names=self.head.names
        )
        message = choice.get("message")
        items.add(_numbered(message) if isinstance(message, dict) else {}, choice.get("logprobs"))
        cut = _CUT.get(self.captured.finish_reason)
        items.end(COMPLETED if cut is None else INCOMPLETE)
        return msgspec.json.encode(self.head.ended(output=items.shown(), cut=cut, tokens=tokens, cost=cost))

    def text(self) -> str:
        """All text in it, for counting."""
        return self.chat.text()


class ResponsesOverChat:
    """The stream's `StreamReader`: what `inner` makes of the provider's stream, made events of a response."""

    def __init__(self, *, inner: StreamReader, head: ResponseHead, limits: UsageLimits | None = None) -> None:
        self._inner = inner
        self._head = head
        self._items = OutputItems(
            hexes=head.hexes,
            emit=self._emit,
            summarizes=head.summarizes,
            names=head.names,
            whole_names=head.whole_names,
            room=(TextRoom(limits), TextRoom(limits)),
        )
        self._events: list[bytes] = []
        self._number = 0
        self._heard = True

    @property
    def has_content(self) -> bool:
        """True once something of the answer itself was seen."""
        return self._inner.has_content

    @property
    def ended(self) -> bool:
        """True once the provider's own end or its error was seen."""
        return self._inner.ended

    def feed(self, data: bytes) -> bytes:
        """The events for one read. Raises ProviderMisbehaved."""
        out = self._inner.feed(data)
        if not self._heard:
            return b""
        for event in out.split(b"\n\n"):
            payload = data_of(event) if event else None
            if payload is not None:
                self._chunk(payload)
            elif event:
                self._events.append(b":\n\n")
        return self._handed_out()

    def finish(self) -> Captured:
        """What was captured so far."""
        return self._inner.finish()

    def closing(self, *, tokens: Tokens, cost: str | None, cut: bool = False) -> bytes:
        """The ends of what is open, and of the response, which says its usage."""
        self._begin()
        why = _CUT["length"] if cut else _CUT.get(self._inner.finish().finish_reason)
        self._items.end(COMPLETED if why is None else INCOMPLETE)
        response = self._head.ended(output=self._items.shown(), cut=why, tokens=tokens, cost=cost)
        self._emit(COMPLETED if why is None else INCOMPLETE, response=response)
        return self._handed_out()

    def failing(self, view: ErrorView, body: object) -> bytes:
        """The end of a response that failed: see FailsItself.

        Agents look for `response.failed`, SDKs raise at an event that has an `error`.
        """
        self._begin()
        told: Json = {"code": view.code, "message": view.message, "param": view.param}
        code = "rate_limit_exceeded" if view.status == 429 else "server_error"
        error = {"code": code, "message": view.message}
        self._emit("failed", response=self._head.shown(status="failed", output=self._items.shown(), error=error))
        self._put("error", {**told, "error": body.get("error", told) if isinstance(body, dict) else told})
        return self._handed_out()

    def stop_delivery(self) -> None:
        """From now on nothing counts as delivered."""
        self._heard = False
        self._inner.stop_delivery()

    def delivered_text(self) -> str:
        """All text handed out so far. Slow: call it off the loop."""
        return self._inner.delivered_text()

    def _chunk(self, payload: bytes) -> None:
        try:
            chunk = _CHUNK.decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ProviderMisbehaved("the provider sent an event that is no chat chunk") from error
        self._begin()
        choice = _first_choice(chunk)
        delta = choice.get("delta")
        if isinstance(delta, dict):
            self._items.add(delta, choice.get("logprobs"))

    def _begin(self) -> None:
        if not self._number:
            response = self._head.shown(status="in_progress", output=[])
            self._emit("created", response=response)
            self._emit("in_progress", response=response)

    def _emit(self, kind: str, **fields: object) -> None:
        self._put(f"response.{kind}", fields)

    def _put(self, kind: str, fields: Mapping[str, object]) -> None:
        data = msgspec.json.encode({"type": kind, "sequence_number": self._number, **fields})
        self._number += 1
        self._events.append(b"event: %b\ndata: %b\n\n" % (kind.encode(), data))

    def _handed_out(self) -> bytes:
        events, self._events = self._events, []
        return b"".join(events)


def _first_choice(chat: Mapping[str, object]) -> Json:
    choices = chat.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    return first if isinstance(first, dict) else {}


def _numbered(message: Json) -> Json:
    """A whole message whose calls are told apart: each is all of one, whatever ids and numbers providers give them."""
    calls = message.get("tool_calls")
    known = [call for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []
    return {**message, "tool_calls": [{**call, "index": number} for number, call in enumerate(known)]}


def _unheard(_kind: str, **_fields: object) -> None:
    """Hands no event out: a whole answer has none."""
