"""Tool calls of chat providers as OpenAI sends them: each under a number of its own, and the finish says so.

Some providers leave the numbers out, give all calls the same, or finish with `stop` although tools were called. Clients
put the pieces together by number and run the tools when the finish says `tool_calls`, so all of that loses calls.
"""

from upstream.outcome import ProviderMisbehaved

CALLED = "tool_calls"
MOST_CALLS = 4096


def mend_finish(choice: dict[str, object]) -> bool:
    """Puts the finish of a whole answer's choice right; whether it was wrong."""
    message = choice.get("message")
    if choice.get("finish_reason") != "stop" or not isinstance(message, dict) or not message.get("tool_calls"):
        return False
    choice["finish_reason"] = CALLED
    return True


class CallNumbers:
    """The calls of one choice."""

    __slots__ = ("_by_id", "_by_theirs", "_last")

    def __init__(self) -> None:
        self._by_id: dict[str, int] = {}
        self._by_theirs: dict[int, tuple[int, str]] = {}
        self._last = -1

    def mend(self, choice: dict[str, object]) -> bool:
        """Puts right what is wrong in a chunk's choice; whether anything was."""
        delta = choice.get("delta")
        calls = delta.get("tool_calls") if isinstance(delta, dict) else None
        changed = False
        for call in calls if isinstance(calls, list) else ():
            if isinstance(call, dict):
                number = self._number_of(call)
                changed = changed or call.get("index") != number
                call["index"] = number
        if choice.get("finish_reason") == "stop" and self._last >= 0:
            choice["finish_reason"] = CALLED
            return True
        return changed

    def _number_of(self, call: dict[str, object]) -> int:
        theirs, call_id, function = call.get("index"), call.get("id"), call.get("function")
        own = call_id if isinstance(call_id, str) else ""
        named = isinstance(function, dict) and bool(function.get("name"))
        place = theirs if isinstance(theirs, int) and not isinstance(theirs, bool) else None
        number, known = (-1, "") if place is None else self._by_theirs.get(place, (-1, ""))
        if number >= 0 and own and own == known:
            return number
        begins = place is not None and number < 0 and named  # a call of its own, also under an id that another has
        if own in self._by_id and not begins:
            return self._by_id[own]
        if place is None:
            return self._new(own) if own or named or self._last < 0 else self._last
        if number < 0 or (own and known and named):
            number = self._new(own)
            self._by_theirs[place] = (number, own)
        return number

    def _new(self, call_id: str) -> int:
        self._last += 1
        if self._last >= MOST_CALLS:
            raise ProviderMisbehaved("the provider's answer calls more tools than any answer does")
        if call_id:
            self._by_id[call_id] = self._last
        return self._last
