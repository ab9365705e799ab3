"""Which call of a streamed answer a piece belongs to, however the provider numbers, names and calls them.

By OpenAI's book a call's first piece has a number, an id and the name, the others only the number. Providers leave
numbers or ids out, give all calls the same, repeat id and name with every piece, invent an id for every piece, or send
the name in pieces. So a piece is of the call with its number and id as far as it has them, unless it can't be: it has
an id that is new and a name, or a name although that call has its arguments already. What stays open: two calls below
one number without ids, the first of which has no arguments at all, are read as one whose name came in pieces.
"""

import dataclasses
import re

import msgspec

from upstream.outcome import ProviderMisbehaved

MOST_CALLS = 4096
LONGEST_NAME = 1024
_REST_OF_TEXT = r'[^"\\]*+(?:\\.[^"\\]*+)*+("?)'
_TEXT = re.compile(_REST_OF_TEXT, re.DOTALL)
_MARKS = re.compile(rf'"{_REST_OF_TEXT}|[{{}}\[\]]', re.DOTALL)


class Arguments:
    """How far the arguments of a call have come. Each sign is looked at once: a megabyte may come in tiny pieces."""

    __slots__ = ("_depth", "_escaped", "_in_text", "_whole", "have_begun")

    def __init__(self) -> None:
        self._depth = 0
        self._in_text = self._escaped = self._whole = False
        self.have_begun = False

    @property
    def are_whole(self) -> bool:
        """Whether what has come is a whole object, so far as its brackets tell."""
        return self._whole and not self._depth

    def hear(self, piece: str) -> None:
        """Takes a piece in."""
        at = 1 if self._escaped else 0
        if self._in_text and piece and (rest := _TEXT.match(piece, at)) is not None:
            self._pass(rest)
            at = rest.end()
        for found in _MARKS.finditer(piece, at):
            mark = piece[found.start()]
            if mark == '"':
                self._pass(found)
            else:
                self._depth += 1 if mark in "{[" else -1
        words = piece.rstrip()
        self.have_begun = self.have_begun or bool(words)
        self._whole = not self._in_text and (words.endswith("}") if words else self._whole)

    def _pass(self, text: re.Match[str]) -> None:
        """Passes a text, or what there is of it: then an escape may be all that is left of the piece."""
        self._in_text = not text[1]
        self._escaped = self._in_text and text.end() < len(text.string)


@dataclasses.dataclass(slots=True, eq=False, kw_only=True)
class CallSoFar:
    """A call as far as it has come. `their_id` is what the provider calls it, which another may be called too.

    `named_again` is set once its name came after its arguments: that was a repetition, or the next call's beginning.
    """

    number: int
    their_id: str = ""
    name: str = ""
    named_again: bool = False
    arguments: Arguments = dataclasses.field(default_factory=Arguments)

    def is_followed_by(self, name: str, arguments: str, *, numbered: bool) -> bool:
        """Whether a piece that could be of this call, and has this name, is the first of another."""
        has_arguments = bool(arguments.strip())
        if not name or not self.name:
            return self.named_again and has_arguments
        if name == self.name:
            return self.arguments.are_whole and has_arguments
        return self.arguments.have_begun or has_arguments or not numbered


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CallPiece:
    """A piece, read. `name` is what it adds to its call's name, `arguments` to its arguments (or to its free input)."""

    call: CallSoFar
    begins: bool
    name: str
    arguments: str


class CallPieces:
    """The calls of one message in a stream."""

    __slots__ = ("_by_id", "_by_place", "_count", "_last")

    def __init__(self) -> None:
        self._by_id: dict[str, CallSoFar] = {}
        self._by_place: dict[int | str, CallSoFar] = {}
        self._last: CallSoFar | None = None
        self._count = 0

    def __bool__(self) -> bool:
        return self._count > 0

    def take(self, delta: dict[str, object]) -> CallPiece:
        """Takes a piece in. Raises ProviderMisbehaved for more calls than any answer has."""
        index, call_id = delta.get("index"), _text(delta.get("id"))
        place = index if isinstance(index, (int, str)) and not isinstance(index, bool) else None
        is_custom = isinstance(delta.get("custom"), dict)
        name, arguments = _called(delta.get("custom" if is_custom else "function"))
        found = self._call_of(place, call_id, name, arguments)
        begins = found is None or found.is_followed_by(name, arguments, numbered=place is not None)
        call = self._new() if found is None or begins else found
        if begins and found is not None:
            name = name or found.name
        call.named_again = not begins and bool(name) and call.arguments.are_whole
        more = "" if name == call.name else name[: LONGEST_NAME - len(call.name)]
        call.name += more
        if call_id and (begins or not call.their_id):
            call.their_id = call_id
            self._by_id[call_id] = call
        if place is not None and len(self._by_place) <= MOST_CALLS:
            self._by_place[place] = call
        self._last = call
        if is_custom:
            call.arguments.have_begun = call.arguments.have_begun or bool(arguments)
        else:
            call.arguments.hear(arguments)
        return CallPiece(call=call, begins=begins, name=more, arguments=arguments)

    def _call_of(self, place: int | str | None, call_id: str, name: str, arguments: str) -> CallSoFar | None:
        """The call that a piece can be of; None for a new one."""
        below = self._last if place is None else self._by_place.get(place)
        called_so = self._by_id.get(call_id)
        if below is None:  # a number of its own makes a call, also under an id that another has
            return None if name else called_so
        if call_id and below.their_id and call_id != below.their_id:
            if called_so is None and name:
                return None
            if called_so is None:  # an id for every piece, unless there is nothing left to come
                ends = below.arguments.are_whole and (place is None or bool(arguments.strip()))
                return None if ends else below
            return called_so
        return below

    def _new(self) -> CallSoFar:
        if self._count >= MOST_CALLS:
            raise ProviderMisbehaved("the provider's answer calls more tools than any answer does")
        call = CallSoFar(number=self._count)
        self._count += 1
        return call


def _called(function: object) -> tuple[str, str]:
    """The name and the arguments in a piece."""
    if not isinstance(function, dict):
        return "", ""
    given = function.get("arguments", function.get("input"))
    return _text(function.get("name")), msgspec.json.encode(given).decode() if isinstance(given, dict) else _text(given)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
