"""The output of a response as it grows: deltas of a chat message in, items and their events out.

A message or the reasoning before it is open until something else begins. Tool calls stay open until the end, since
providers may go on with an earlier call after a later one has begun.
"""

from collections.abc import Callable, Container, Mapping
from typing import Literal

import msgspec

from services.edge.translate.narrow_names import MOST_CALL_LETTERS
from upstream.kept_text import LONGEST_TOKEN, TextRoom

Json = dict[str, object]
Emit = Callable[..., None]
"""`emit(kind, **fields)`: hands out the event `response.<kind>`."""

COMPLETED, IN_PROGRESS, INCOMPLETE = "completed", "in_progress", "incomplete"


class OutputItems:
    """All items of one response. `hexes` makes their ids; each event goes out through `emit`.

    `names` are the namespace and name of tools that a chat knows by one name, `whole_names` the names of tools that
    nothing can follow. Each call has a number of its own in the deltas: readers of streams see to that. All of it is
    told again at the end, so there is `room` for texts, and as much for what is known of their tokens; None for a whole
    answer, which is bounded as such.
    """

    def __init__(
        self,
        *,
        hexes: str,
        emit: Emit,
        summarizes: bool,
        names: Mapping[str, tuple[str, str]],
        whole_names: Container[str] = (),
        room: tuple[TextRoom, TextRoom] | None = None,
    ) -> None:
        self._room = room
        self._hexes = hexes
        self._names = names
        self._whole_names = whole_names
        self._emit = emit
        self._summarizes = summarizes
        self._items: list[_Texts | _Call] = []
        self._open: _Texts | None = None
        self._calls: dict[object, _Call] = {}
        self._call_ids: set[str] = set()

    def add(self, delta: Mapping[str, object], logprobs: object = None) -> None:
        """Takes a delta, or a whole message, in. Raises ProviderMisbehaved for more than there is room for."""
        content = delta.get("content")
        thought = thinking_of(content) + (_text(delta.get("reasoning_content")) or _text(delta.get("reasoning")))
        said, refusal, likely = _text(content), _text(delta.get("refusal")), _logprobs(logprobs)
        if self._room is not None:
            self._room[0].take(len(thought) + len(said) + len(refusal))
            self._room[1].take(LONGEST_TOKEN * len(likely))
        if thought:
            self._texts("reasoning").add("reasoning", thought)
        if said:
            self._texts("message").add("text", said, likely)
        if refusal:
            self._texts("message").add("refusal", refusal)
        calls = delta.get("tool_calls")
        for call in calls if isinstance(calls, list) else ():
            if isinstance(call, dict):
                self._call(call)

    def end(self, status: str) -> None:
        """Closes what is open. Only the last item can be what a limit has cut."""
        for item in self._items:
            item.close(status if item is self._items[-1] else COMPLETED)
        self._open = None

    def shown(self) -> list[Json]:
        """The items as they are now."""
        return [item.shown() for item in self._items]

    def _texts(self, kind: Literal["message", "reasoning"]) -> "_Texts":
        """The open item of this kind, a new one after any other."""
        if self._open is None or self._open.kind != kind:
            self._close_texts()
            self._make_room(LONGEST_TOKEN)
            self._open = _Texts(kind, *self._place("msg" if kind == "message" else "rs"), summarizes=self._summarizes)
            self._items.append(self._open)
            self._open.begin()
        return self._open

    def _call(self, delta: Mapping[str, object]) -> None:
        """A piece of a tool call."""
        number = delta.get("index")
        call = self._calls.get(number)
        if call is None:
            self._close_texts()
            kind = "custom" if isinstance(delta.get("custom"), dict) else "function"
            place = self._place("ctc" if kind == "custom" else "fc")
            call = self._calls[number] = _Call(kind, *place, names=self._names, taken=self._call_ids)
            self._items.append(call)
        self._make_room(call.add(_text(delta.get("id")), delta.get(call.kind), whole_names=self._whole_names))

    def _make_room(self, characters: int) -> None:
        if self._room is not None:
            self._room[0].take(characters)

    def _close_texts(self) -> None:
        if self._open is not None:
            self._open.close(COMPLETED)
            self._open = None

    def _place(self, prefix: str) -> tuple[int, str, Emit]:
        """The next item's; a call before it that waits for arguments is told first, since clients count the items."""
        index = len(self._items)
        if index and isinstance(last := self._items[-1], _Call):
            last.tell()
        return index, f"{prefix}_{self._hexes}{index:04x}", self._emit


class _Texts:
    """A message, whose parts are texts and refusals, or reasoning, shown as a summary or as its own text."""

    def __init__(self, kind: str, index: int, item_id: str, emit: Emit, *, summarizes: bool) -> None:
        self.kind = kind
        self._index = index
        self._id = item_id
        self._emit = emit
        self._summarizes = summarizes
        self._parts: list[Json] = []
        self._part = ""
        self._pieces: list[str] = []
        self._logprobs: list[object] = []
        self._status = IN_PROGRESS

    def begin(self) -> None:
        """Tells of the item."""
        self._emit("output_item.added", output_index=self._index, item=self.shown())

    def add(self, part: str, text: str, logprobs: list[object] | None = None) -> None:
        """More of a part; a new one when it is of another kind than the last."""
        if self._part != part:
            self._close_part()
            self._part = part
            self._emit(f"{self._part_name}.added", **self._where, part=self._made(""))
        self._pieces.append(text)
        if part == "text":
            self._logprobs += logprobs or []
            self._emit("output_text.delta", **self._where, delta=text, logprobs=logprobs or [])
        else:
            self._emit(f"{self._text_name}.delta", **self._where, delta=text)

    def close(self, status: str) -> None:
        """Tells its end, once."""
        if self._status == IN_PROGRESS:
            self._close_part()
            self._status = status
            self._emit("output_item.done", output_index=self._index, item=self.shown())

    def shown(self) -> Json:
        """The item."""
        if self.kind == "message":
            shown: Json = {"id": self._id, "type": "message", "status": self._status, "role": "assistant"}
            return {**shown, "content": list(self._parts)}
        shown = {"id": self._id, "type": "reasoning", "status": self._status}
        if self._summarizes:
            return {**shown, "summary": list(self._parts)}
        return {**shown, "summary": [], "content": list(self._parts)}

    def _close_part(self) -> None:
        if not self._part:
            return
        made = self._made("".join(self._pieces))
        whole = {"text": made["text"]} if self._part != "refusal" else {"refusal": made["refusal"]}
        logprobs = {"logprobs": made["logprobs"]} if self._part == "text" else {}
        self._emit(f"{self._text_name}.done", **self._where, **whole, **logprobs)
        self._emit(f"{self._part_name}.done", **self._where, part=made)
        self._parts.append(made)
        self._part, self._pieces, self._logprobs = "", [], []

    @property
    def _where(self) -> Json:
        place = "summary_index" if self._is_summary else "content_index"
        return {"item_id": self._id, "output_index": self._index, place: len(self._parts)}

    @property
    def _is_summary(self) -> bool:
        return self._summarizes and self.kind == "reasoning"

    @property
    def _part_name(self) -> str:
        return "reasoning_summary_part" if self._is_summary else "content_part"

    @property
    def _text_name(self) -> str:
        if self._part == "reasoning":
            return "reasoning_summary_text" if self._is_summary else "reasoning_text"
        return "refusal" if self._part == "refusal" else "output_text"

    def _made(self, text: str) -> Json:
        if self._part == "refusal":
            return {"type": "refusal", "refusal": text}
        if self._part == "reasoning":
            return {"type": "summary_text" if self._is_summary else "reasoning_text", "text": text}
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": self._logprobs if text else []}


class _Call:
    """A call of a tool. Where its name may grow it is told when its arguments or the next item begin to come."""

    def __init__(
        self,
        kind: str,
        index: int,
        item_id: str,
        emit: Emit,
        *,
        names: Mapping[str, tuple[str, str]],
        taken: set[str],
    ) -> None:
        self.kind = kind
        self._their_id = self._call_id = ""
        self._taken = taken
        self._index = index
        self._id = item_id
        self._emit = emit
        self._names = names
        self._name = ""
        self._pieces: list[str] = []
        self._told = False
        self._status = IN_PROGRESS

    def add(self, call_id: str, called: object, *, whole_names: Container[str]) -> int:
        """More of it; how many characters of arguments. `called` is what chat calls `function` or `custom`."""
        self._their_id = self._their_id or call_id
        if not isinstance(called, dict):
            return 0
        if not self._told:
            self._name += _text(called.get("name"))
        given = called.get("arguments" if self.kind == "function" else "input")
        piece = given if isinstance(given, str) else "" if given is None else msgspec.json.encode(given).decode()
        if piece:
            self._pieces.append(piece)
        if self._told and piece:
            self._delta(piece)
        elif self._name and (self._pieces or self._name in whole_names):
            self.tell()
        return len(piece)

    def close(self, status: str) -> None:
        """Tells its end, once."""
        if self._status != IN_PROGRESS:
            return
        self.tell()
        given = "".join(self._pieces)
        where: Json = {"item_id": self._id, "output_index": self._index}
        if self.kind == "custom":
            self._emit("custom_tool_call_input.done", **where, input=given)
        else:
            self._emit("function_call_arguments.done", **where, name=self._own_name[1], arguments=given)
        self._status = status
        self._emit("output_item.done", output_index=self._index, item=self.shown())

    def shown(self) -> Json:
        """The item."""
        given = "".join(self._pieces)
        space, name = self._own_name
        shown: Json = {
            "id": self._id,
            "type": "function_call",
            "status": self._status,
            "call_id": self._call_id or self._their_id,
        }
        if space is not None:
            shown["namespace"] = space
        if self.kind == "custom":
            return {**shown, "type": "custom_tool_call", "name": name, "input": given}
        return {**shown, "name": name, "arguments": given}

    @property
    def _own_name(self) -> tuple[str | None, str]:
        """The namespace and name by which the client knows the tool."""
        return self._names.get(self._name, (None, self._name))

    def tell(self) -> None:
        """Tells of the item, once; what of its arguments has come follows."""
        if self._told:
            return
        is_own = self._their_id and self._their_id not in self._taken
        self._call_id = self._their_id if is_own else f"call_{self._id[-MOST_CALL_LETTERS + len('call_') :]}"
        self._taken.add(self._call_id)
        before, self._pieces = "".join(self._pieces), []
        self._told = True
        self._emit("output_item.added", output_index=self._index, item=self.shown())
        if before:
            self._pieces = [before]
            self._delta(before)

    def _delta(self, piece: str) -> None:
        kind = "custom_tool_call_input" if self.kind == "custom" else "function_call_arguments"
        self._emit(f"{kind}.delta", item_id=self._id, output_index=self._index, delta=piece)


def thinking_of(content: object) -> str:
    """The thinking in a content of parts, where some providers put it."""
    parts = [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []
    return "".join(_text(part.get("thinking")) for part in parts if part.get("type") == "thinking")


def _text(value: object) -> str:
    """A text, or the texts of a list of parts."""
    if isinstance(value, str):
        return value
    parts = [part.get("text") for part in value if isinstance(part, dict)] if isinstance(value, list) else []
    return "".join(text for text in parts if isinstance(text, str))


def _logprobs(value: object) -> list[object]:
    content = value.get("content") if isinstance(value, dict) else None
    return [_logprob(each) for each in content if isinstance(each, dict)] if isinstance(content, list) else []


def _logprob(likely: Json) -> Json:
    """A token's: where chat may leave its bytes and its rivals out, responses have them."""
    rivals = likely.get("top_logprobs")
    known = [each for each in rivals if isinstance(each, dict)] if isinstance(rivals, list) else []
    return {**_token(likely), "top_logprobs": [_token(each) for each in known]}


def _token(likely: Json) -> Json:
    token, octets = _text(likely.get("token")), likely.get("bytes")
    if not isinstance(octets, list):
        octets = list(token.encode("utf-8", "replace"))
    return {"token": token, "bytes": octets, "logprob": likely.get("logprob")}
