"""A chat stream read for its meaning, for clients whose answers are made anew; `chat_stream` relays the bytes instead.

Only the first choice is read: who reads a stream so asks for one.
"""

import msgspec

from upstream.openai.chat_stream import FAILED
from upstream.openai.errors import read_error
from upstream.openai.shapes import mend_content
from upstream.openai.usage_block import UsageBlock
from upstream.outcome import ProviderMisbehaved
from upstream.sse import EventSplitter, data_of, is_error
from upstream.usage import Captured, UsageLimits

Object = dict[str, object]
KEEP_ALIVE: Object = {}
"""Stands for a comment: the provider is there, and has nothing to say yet."""
_NULL = b"null"
_DONE = b"[DONE]"
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class _Chunk(msgspec.Struct, frozen=True):
    id: object = None
    kind: object = msgspec.field(default=None, name="object")
    choices: list[Object] | None = None
    usage: msgspec.Raw = msgspec.Raw(_NULL)
    error: msgspec.Raw = msgspec.Raw(_NULL)


_CHUNK = msgspec.json.Decoder(_Chunk)


class ChatChunks:
    """Reads a stream into choices, and captures what money needs on the way."""

    def __init__(self, *, limits: UsageLimits | None = None) -> None:
        self._splitter = EventSplitter()
        self._usage = UsageBlock(limits)
        self._id = ""
        self._finish = ""
        self._done = False
        self._error: str | None = None
        self._error_status: int | None = None

    @property
    def ended(self) -> bool:
        """True once the end mark or an error was seen."""
        return self._done or self._error is not None

    def feed(self, data: bytes) -> list[Object]:
        """The choices that these bytes complete, and KEEP_ALIVE for comments. Raises ProviderMisbehaved."""
        found: list[Object] = []
        for event in self._splitter.feed(data):
            if self.ended:
                break
            payload = data_of(event)
            if payload is None:
                found += [KEEP_ALIVE] if event.startswith(b":") else []
            elif payload.strip() == _DONE:
                self._done = True
            elif payload.strip():
                found += self._read(payload, failed=is_error(event))
        return found

    def captured(self) -> Captured:
        """What was captured so far."""
        at_end = self._done or bool(self._finish) or (data_of(self._splitter.rest) or b"").strip() == _DONE
        complete = self._error is None and at_end
        usage = self._usage
        return Captured(
            tokens=usage.tokens if complete else None,
            so_far=usage.tokens,
            reported_cost_nano_usd=usage.reported_cost_nano_usd,
            generation_id=self._id,
            finish_reason=self._finish,
            complete=complete,
            error=self._error,
            error_status=self._error_status,
            implausible=usage.implausible,
            beyond_input=usage.beyond_input,
        )

    def _read(self, payload: bytes, *, failed: bool) -> list[Object]:
        try:
            chunk = _CHUNK.decode(payload)
        except _UNREADABLE as error:
            if self._finish:  # all of the answer is there: at most its usage is lost
                return []
            raise ProviderMisbehaved("the provider sent an event that is no chat chunk") from error
        unsaid = bytes(chunk.error) == _NULL
        if failed or not unsaid or chunk.kind == FAILED:
            self._error, self._error_status = read_error(payload if unsaid else chunk.error)
            return []
        self._usage.read(chunk.usage)
        if not self._id and isinstance(chunk.id, str):
            self._id = chunk.id[:200]
        firsts = [choice for choice in chunk.choices or [] if not choice.get("index")]
        for choice in firsts:
            mend_content(choice.get("delta"))
            finish = choice.get("finish_reason")
            if finish == FAILED:
                self._error, self._error_status = read_error(msgspec.json.encode(choice.get("error")))
                return []
            self._finish = finish if isinstance(finish, str) and finish else self._finish
        return firsts
