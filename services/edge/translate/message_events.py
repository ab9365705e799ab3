"""Writes a Messages stream: its events in their order, its blocks one after the other under rising indexes."""

from collections.abc import Mapping

import msgspec

PING = b'event: ping\ndata: {"type":"ping"}\n\n'
_EMPTY: dict[str, dict[str, object]] = {
    "text": {"type": "text", "text": ""},
    "thinking": {"type": "thinking", "thinking": "", "signature": ""},
}


class MessageEvents:
    """One stream's writer. Whatever is said first begins the message, with a ping behind its start."""

    def __init__(self, *, model: str) -> None:
        self._model = model
        self._index = -1
        self._open = ""
        self.started = False

    def start(self, message_id: str) -> bytes:
        """The message's start, once."""
        if self.started:
            return b""
        self.started = True
        message: dict[str, object] = {
            "id": message_id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {
                "input_tokens": 0,
                "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": 0,
                "output_tokens": 0,
            },
        }
        return _sse("message_start", {"message": message}) + PING

    def text(self, text: str) -> bytes:
        """A piece of the answer."""
        return self._block("text") + self._delta({"type": "text_delta", "text": text})

    def thinking(self, text: str) -> bytes:
        """A piece of what was thought before."""
        return self._block("thinking") + self._delta({"type": "thinking_delta", "thinking": text})

    def tool_use(self, *, call_id: str, name: str) -> bytes:
        """The start of a call; its arguments follow."""
        block = {"type": "tool_use", "id": call_id, "name": name, "input": {}}
        return self._begin("tool_use", block) + self.arguments("")

    def arguments(self, piece: str) -> bytes:
        """A piece of the call's arguments."""
        return self._delta({"type": "input_json_delta", "partial_json": piece})

    def end(self, *, stop_reason: str, stop_sequence: str | None, usage: msgspec.Raw) -> bytes:
        """The end of the last block and of the message."""
        stop = {"stop_reason": stop_reason, "stop_sequence": stop_sequence}
        return self._close() + _sse("message_delta", {"delta": stop, "usage": usage}) + _sse("message_stop", {})

    def _block(self, kind: str) -> bytes:
        return b"" if self._open == kind else self._begin(kind, _EMPTY[kind])

    def _begin(self, kind: str, block: Mapping[str, object]) -> bytes:
        closed = self._close()
        self._index += 1
        self._open = kind
        return closed + _sse("content_block_start", {"index": self._index, "content_block": block})

    def _close(self) -> bytes:
        if not self._open:
            return b""
        self._open = ""
        return _sse("content_block_stop", {"index": self._index})

    def _delta(self, delta: Mapping[str, object]) -> bytes:
        return _sse("content_block_delta", {"index": self._index, "delta": delta})


def _sse(kind: str, fields: Mapping[str, object]) -> bytes:
    data = msgspec.json.encode({"type": kind, **fields})
    return b"event: " + kind.encode() + b"\ndata: " + data + b"\n\n"
