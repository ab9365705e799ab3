"""Tool calls as chat providers stream them, put in the order that Messages has: one call whole before the next begins.

Most providers send them so, some mix the pieces of several calls. What belongs to a later call waits until the one
before it is whole, and a call whose name is no tool's, or may become another's, waits for its arguments.
"""

import dataclasses
from collections.abc import Container

from chassis.ids import uuid7
from upstream.openai.call_pieces import CallPieces, CallSoFar


@dataclasses.dataclass(slots=True, kw_only=True)
class Call:
    """One call under an id of its own; `waiting` are the pieces of its arguments that were not handed out yet."""

    id: str
    so_far: CallSoFar
    begun: bool = False
    waiting: list[str] = dataclasses.field(default_factory=list)

    @property
    def name(self) -> str:
        """The name, as far as it has come."""
        return self.so_far.name

    @property
    def is_whole(self) -> bool:
        """Whether all arguments were handed out."""
        return not self.waiting and self.so_far.arguments.are_whole


class CallOrder:
    """The calls of one stream. `names` are those of tools that nothing can follow."""

    def __init__(self, *, names: Container[str] = ()) -> None:
        self._names = names
        self._pieces = CallPieces()
        self._calls: list[Call] = []
        self._ids: set[str] = set()
        self._live = 0
        self._added: Call | None = None

    def __bool__(self) -> bool:
        return bool(self._calls)

    @property
    def is_busy(self) -> bool:
        """Whether a call has begun that is not whole, or one waits for its turn."""
        return bool(self._calls) and not (self._live == len(self._calls) - 1 and self._calls[-1].is_whole)

    def add(self, delta: dict[str, object]) -> None:
        """Takes a piece of a call in. Raises ProviderMisbehaved for more calls than any answer has."""
        piece = self._pieces.take(delta)
        if piece.begins:
            theirs = piece.call.their_id
            own = theirs if theirs and theirs not in self._ids else f"toolu_{uuid7().hex}"
            self._ids.add(own)
            self._calls.append(Call(id=own, so_far=piece.call))
        self._added = self._calls[piece.call.number] if piece.arguments else None
        if self._added is not None:
            self._added.waiting.append(piece.arguments)

    @property
    def left_waiting(self) -> int:
        """How many characters of the last piece were not handed out."""
        return len(self._added.waiting[-1]) if self._added is not None and self._added.waiting else 0

    def ready(self, *, final: bool = False) -> list[tuple[Call, bool, str]]:
        """What can be handed out now: the call, whether it begins with this, and a piece of its arguments."""
        found: list[tuple[Call, bool, str]] = []
        while self._live < len(self._calls):
            call, is_last = self._calls[self._live], self._live + 1 == len(self._calls)
            is_named = call.so_far.arguments.have_begun or not is_last or call.name in self._names
            if not final and not (call.name and is_named):
                break
            piece, begins = "".join(call.waiting), not call.begun
            call.waiting.clear()
            if begins or piece:
                found.append((call, begins, piece))
            call.begun = True
            if is_last or not (final or call.is_whole):
                break
            self._live += 1
        return found
