"""Splits a stream of bytes into server-sent events: incremental, bounded, indifferent to where the reads fall.

Lines may end in LF, CRLF or CR; an event ends at a blank line. Events come out with LF only and without their blank
line. What follows the last blank line is no event, as the standard has it; `rest` shows it. A byte order mark at the
beginning is left out, and what is no UTF-8 becomes U+FFFD, as the standard has it too.
"""

from upstream.outcome import ProviderMisbehaved
from upstream.whole_signs import with_whole_signs

MAX_EVENT_BYTES = 8 << 20
"""Some providers send all arguments of a call as one event; a megabyte of them is several when escaped."""
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class EventSplitter:
    """Feed it reads, get whole events."""

    __slots__ = ("_after_cr", "_begun", "_max_event_bytes", "_pending")

    def __init__(self, *, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max_event_bytes = max_event_bytes
        self._pending = bytearray()
        self._after_cr = False
        self._begun = False

    @property
    def between_events(self) -> bool:
        """True when nothing is pending: the next read starts an event."""
        return not self._pending and not self._after_cr

    @property
    def rest(self) -> bytes:
        """What has come of an event that has no end yet."""
        return bytes(self._pending)

    def feed(self, data: bytes) -> list[bytes]:
        """The events that these bytes complete. Raises ProviderMisbehaved for an event beyond the bound."""
        if self._after_cr or b"\r" in data:
            data = self._with_lf(data)
        if self._pending:
            searched = max(len(self._pending) - 1, 0)
            self._pending += data
            if self._pending.find(b"\n\n", searched) < 0:
                self._check(len(self._pending))
                return []
            data = bytes(self._pending)
            self._pending.clear()
        parts = data.split(b"\n\n")
        left = parts.pop().lstrip(b"\n")
        self._check(max(map(len, parts), default=0))
        self._check(len(left))
        self._pending += left
        if not self._begun and parts:
            self._begun = True
            parts[0] = parts[0].removeprefix(_BYTE_ORDER_MARK)
        return [_as_utf8(event) for part in parts if (event := part.lstrip(b"\n"))]

    def _with_lf(self, data: bytes) -> bytes:
        """Line ends as LF. A CR counts at once; should the next read begin with its LF, that one is dropped."""
        if self._after_cr and data.startswith(b"\n"):
            data = data[1:]
            self._after_cr = False
        if data:
            self._after_cr = data.endswith(b"\r")
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _check(self, size: int) -> None:
        if size > self._max_event_bytes:
            raise ProviderMisbehaved(f"the provider sent an event larger than {self._max_event_bytes} bytes")


def data_of(event: bytes) -> bytes | None:
    """The data of an event, of whole signs only; None for one that has none, such as a comment.

    Several lines are joined by a space, not by a line end: all data here is JSON, which goes on as one line.
    """
    if event.startswith(b"data: ") and b"\n" not in event:
        return with_whole_signs(event[6:])
    lines = [line[5:].removeprefix(b" ") for line in event.split(b"\n") if line.startswith(b"data:")]
    return with_whole_signs(b" ".join(lines)) if lines else None


def is_error(event: bytes) -> bool:
    """Whether it is named an error, whatever its data looks like."""
    return any(line.partition(b":")[2].strip() == b"error" for line in event.split(b"\n") if line.startswith(b"event:"))


def _as_utf8(event: bytes) -> bytes:
    return event if event.isascii() else event.decode("utf-8", "replace").encode()
