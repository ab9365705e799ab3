"""Tool calls of chat providers as OpenAI sends them: each under a number and an id of its own, and the finish says so.

Some providers leave the numbers out, give all calls the same, or finish with `stop` although tools were called. Clients
put the pieces together by number, add up ids and names, answer by id, and run the tools when the finish says
`tool_calls`, so all of that loses calls. Where a client insists on a tool by its name, `stop` is OpenAI's own finish.
"""

from chassis.ids import uuid7
from upstream.openai.call_pieces import CallPiece, CallPieces

CALLED = "tool_calls"


def mend_finish(choice: dict[str, object]) -> bool:
    """Puts the finish of a whole answer's choice right; whether it was wrong."""
    message = choice.get("message")
    if choice.get("finish_reason") != "stop" or not isinstance(message, dict) or not message.get("tool_calls"):
        return False
    choice["finish_reason"] = CALLED
    return True


class CallNumbers:
    """The calls of one choice. Without `mends_finish` a `stop` stays one."""

    __slots__ = ("_ids", "_mends_finish", "_pieces")

    def __init__(self, *, mends_finish: bool = True) -> None:
        self._pieces = CallPieces()
        self._ids: set[str] = set()
        self._mends_finish = mends_finish

    def mend(self, choice: dict[str, object]) -> bool:
        """Puts right what is wrong in a chunk's choice; whether anything was. Raises ProviderMisbehaved."""
        delta = choice.get("delta")
        calls = delta.get("tool_calls") if isinstance(delta, dict) else None
        changed = False
        for call in calls if isinstance(calls, list) else ():
            if isinstance(call, dict):
                changed = self._mend(call, self._pieces.take(call)) or changed
        if self._mends_finish and choice.get("finish_reason") == "stop" and self._pieces:
            choice["finish_reason"] = CALLED
            return True
        return changed

    def _mend(self, call: dict[str, object], piece: CallPiece) -> bool:
        """Makes of a provider's piece OpenAI's; whether that changed it."""
        changed = call.get("index") != piece.call.number
        call["index"] = piece.call.number
        if piece.begins:
            given = piece.call.their_id
            if not given or given in self._ids:
                call["id"] = given = f"call_{uuid7().hex}"
                changed = True
            self._ids.add(given)
        elif call.get("id"):
            del call["id"]
            changed = True
        function = call.get("function")
        if not isinstance(function, dict):
            return changed
        if piece.begins and not call.get("type"):
            call["type"] = "function"
            changed = True
        if (function.get("name") or "") != piece.name:
            function["name"] = piece.name
            changed = True
        if isinstance(function.get("arguments"), dict):
            function["arguments"] = piece.arguments
            changed = True
        return changed
