"""Tool calls as chat providers stream them, put in the order that Messages has: one call whole before the next begins.

Most providers send them so. Some mix the pieces of several calls, leave out indexes, give all the same index, or repeat
the id and name with every piece. What belongs to a later call waits until the one before it is whole.
"""

import dataclasses
import re
from collections.abc import Sequence

import msgspec

from chassis.ids import uuid7

_MARKS = re.compile(r'\\.?|["{}\[\]]', re.DOTALL)
_ENDS_ESCAPING = re.compile(r"\\+\Z")


@dataclasses.dataclass(slots=True)
class Call:
    """One call; `waiting` are the pieces of its arguments that were not handed out yet.

    `their_id` is what the provider calls it, which another may be called too.
    """

    id: str
    index: object
    their_id: str = ""
    name: str = ""
    begun: bool = False
    waiting: list[str] = dataclasses.field(default_factory=list)
    _depth: int = 0
    _in_text: bool = False
    _escaped: bool = False
    _whole: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether all arguments were handed out."""
        return not self.waiting and self.has_come

    @property
    def has_come(self) -> bool:
        """Whether the arguments that have come are a whole object, so far as their brackets tell."""
        return self._whole and not self._depth

    def hear(self, piece: str) -> None:
        """Takes a piece of the arguments in. Each sign is looked at once: a megabyte may come in tiny pieces."""
        self.waiting.append(piece)
        for found in _MARKS.finditer(piece, 1 if self._escaped else 0):
            mark = found[0]
            if mark[0] == "\\":
                continue
            if mark == '"':
                self._in_text = not self._in_text
            elif not self._in_text:
                self._depth += 1 if mark in "{[" else -1
        last = _ENDS_ESCAPING.search(piece, 1 if self._escaped else 0)
        self._escaped = last is not None and len(last[0]) % 2 == 1
        words = piece.rstrip()
        self._whole = not self._in_text and (words.endswith("}") if words else self._whole)


class CallOrder:
    """The calls of one stream."""

    def __init__(self) -> None:
        self._calls: list[Call] = []
        self._live = 0

    def __bool__(self) -> bool:
        return bool(self._calls)

    @property
    def is_busy(self) -> bool:
        """Whether a call has begun that is not whole, or one waits for its turn."""
        return bool(self._calls) and not (self._live == len(self._calls) - 1 and self._calls[-1].is_whole)

    def add(self, delta: dict[str, object]) -> None:
        """Takes a piece of a call in."""
        function = delta.get("function")
        given = function if isinstance(function, dict) else {}
        name, arguments = given.get("name"), given.get("arguments")
        call = self._call_of(delta, name=name if isinstance(name, str) else "")
        if isinstance(name, str) and not call.name:
            call.name = name
        if isinstance(arguments, str) and arguments:
            call.hear(arguments)
        elif isinstance(arguments, dict):  # some send the object itself
            call.hear(msgspec.json.encode(arguments).decode())

    def ready(self, *, final: bool = False) -> list[tuple[Call, bool, str]]:
        """What can be handed out now: the call, whether it begins with this, and a piece of its arguments."""
        found: list[tuple[Call, bool, str]] = []
        while self._live < len(self._calls):
            call = self._calls[self._live]
            if not call.name and not final:
                break
            piece, begins = "".join(call.waiting), not call.begun
            call.waiting.clear()
            if begins or piece:
                found.append((call, begins, piece))
            call.begun = True
            if self._live + 1 == len(self._calls) or not (final or call.is_whole):
                break
            self._live += 1
        return found

    def _call_of(self, delta: dict[str, object], *, name: str) -> Call:
        """The call that this is a piece of: by its id, else the last below its index, unless it begins a new one.

        It does when it has a name, and either an id of its own or a call before it that is whole or called otherwise.
        """
        given, index = delta.get("id"), delta.get("index")
        call_id = given if isinstance(given, str) else ""
        for call in reversed(self._calls):
            if call_id and call.their_id == call_id and (not name or index is None or call.index == index):
                return call
        below = [call for call in self._calls if index is None or call.index == index]
        if below and not (name and (call_id or below[-1].name not in ("", name) or below[-1].has_come)):
            return below[-1]
        is_taken = any(call.id == call_id for call in self._calls)
        own = call_id if call_id and not is_taken else f"toolu_{uuid7().hex}"
        self._calls.append(Call(id=own, index=index, their_id=call_id))
        return self._calls[-1]


def is_whole(pieces: Sequence[str]) -> bool:
    """Whether these pieces of a call's arguments are all: a whole JSON object."""
    if not pieces or not pieces[-1].rstrip().endswith("}"):
        return False
    try:
        msgspec.json.decode("".join(pieces))
    except (msgspec.DecodeError, RecursionError):
        return False
    return True
