"""The sandbox's answers in OpenAI's shape: chat as a whole and as a stream."""

import itertools

import msgspec

from upstream.sandbox.script import Call, ChatRequest, Script

_HONEST = "This is Tollbridge's built-in sandbox: no model wrote this text."


class ChatAnswer:
    """One chat answer: its words are its tokens, and so are those of the calls in it."""

    def __init__(self, request: ChatRequest, script: Script, *, generation_id: str, created: int) -> None:
        self._request = request
        self._script = script
        self._id = generation_id
        self._created = created
        self._choices = request.n or 1
        wanted = _words(script)
        limit = request.limit if request.limit is not None else len(wanted)
        stops = [request.stop] if isinstance(request.stop, str) else request.stop or []
        self._words, self._matched = _until(stops, wanted[:limit])
        is_cut = limit < len(wanted) and self._matched is None
        self._finish = "length" if is_cut else "tool_calls" if script.calls else "stop"

    def whole(self) -> bytes:
        """The answer to a call without a stream."""
        said = "".join(self._words)
        message: dict[str, object] = {"role": "assistant", "content": said, "refusal": None}
        if self._script.calls:
            message |= {
                "content": said or None,
                "tool_calls": [self._call(*each) for each in enumerate(self._script.calls)],
            }
        choices = [
            {"index": index, "message": message, "logprobs": None, **self._end()} for index in range(self._choices)
        ]
        usage = {"usage": self._usage()} if self._script.usage else {}
        return msgspec.json.encode({**self._head("chat.completion"), "choices": choices, **usage})

    def events(self) -> list[bytes]:
        """The answer as server-sent events: role, content, finish, usage when asked for, end."""
        events = [self._chunk({"role": "assistant", "content": ""})]
        events += [self._chunk({"content": piece}) for piece in self._pieces()]
        if self._script.error_after_chunks is not None:
            error = {"error": {"message": "the sandbox was told to fail", "type": "server_error", "code": 500}}
            return [*events[: self._script.error_after_chunks + 1], _event(error)]
        for number, call in enumerate(self._script.calls):
            events += self._call_events(number, call)
        events.append(self._chunk({}, **self._end()))
        options = self._request.stream_options
        if self._script.usage and options is not None and options.include_usage:
            events.append(_event({**self._head("chat.completion.chunk"), "choices": [], "usage": self._usage()}))
        return [*events, b"data: [DONE]\n\n"]

    def _call(self, number: int, call: Call) -> dict[str, object]:
        called = {"name": call.name, "arguments": call.arguments}
        return {"id": f"call_{self._id}_{number}", "type": "function", "function": called}

    def _call_events(self, number: int, call: Call) -> list[bytes]:
        """Its beginning without arguments, then these in two pieces."""
        begun = self._call(number, Call(name=call.name, arguments=""))
        middle = len(call.arguments) // 2
        deltas = [{"index": number, **begun}] + [
            {"index": number, "function": {"arguments": piece}}
            for piece in (call.arguments[:middle], call.arguments[middle:])
            if piece
        ]
        return [self._chunk({"tool_calls": [delta]}) for delta in deltas]

    def _pieces(self) -> list[str]:
        count = len(self._words) if self._script.chunks is None else self._script.chunks
        if count == 0:
            return []
        each, more = divmod(len(self._words), count)
        words = iter(self._words)
        return ["".join(itertools.islice(words, each + (index < more))) for index in range(count)]

    def _end(self) -> dict[str, str]:
        """Why it ends; the stop sequence that ended it stands where vLLM puts it."""
        matched = {} if self._matched is None else {"stop_reason": self._matched}
        return {"finish_reason": self._finish, **matched}

    def _chunk(self, delta: dict[str, object], **end: str) -> bytes:
        choices = [
            {"index": index, "delta": delta, "logprobs": None, "finish_reason": None, **end}
            for index in range(self._choices)
        ]
        return _event({**self._head("chat.completion.chunk"), "choices": choices})

    def _head(self, kind: str) -> dict[str, object]:
        return {"id": self._id, "object": kind, "created": self._created, "model": self._request.model}

    def _usage(self) -> dict[str, object]:
        prompt = self._script.prompt_tokens
        if prompt is None:
            prompt = sum(len(message.text().split()) for message in self._request.messages)
        called = sum(len(f"{call.name} {call.arguments}".split()) for call in self._script.calls)
        spoken = len(self._words) + (called if self._script.output_tokens is None else 0)
        limit = self._request.limit
        output = (spoken if limit is None else min(spoken, limit)) * self._choices
        return {
            "prompt_tokens": prompt,
            "completion_tokens": output,
            "total_tokens": prompt + output,
            "prompt_tokens_details": {"cached_tokens": min(self._script.cached_tokens, prompt)},
            "completion_tokens_details": {"reasoning_tokens": min(self._script.reasoning_tokens, output)},
        }


def _until(stops: list[str], words: list[str]) -> tuple[list[str], str | None]:
    """The words before the first stop sequence in them, and which it was."""
    said = "".join(words)
    found = min(((said.index(stop), stop) for stop in stops if stop and stop in said), default=None)
    if found is None:
        return words, None
    left, kept = found[0], []
    for word in words:
        kept.append(word[: max(left, 0)])
        left -= len(word)
    return [word for word in kept if word], found[1]


def _words(script: Script) -> list[str]:
    if script.calls and script.text is None and script.output_tokens is None:
        return []
    text = (script.text or _HONEST).split() or [_HONEST]
    count = len(text) if script.output_tokens is None else script.output_tokens
    if count == len(text):
        return [word if index == 0 else f" {word}" for index, word in enumerate(text)]
    return [
        word if index == 0 else f" {word}" for index, word in enumerate(itertools.islice(itertools.cycle(text), count))
    ]


def _event(value: object) -> bytes:
    return b"data: " + msgspec.json.encode(value) + b"\n\n"
