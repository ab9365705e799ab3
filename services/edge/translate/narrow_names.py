"""Names and ids of one protocol as the other takes them: there some are shorter, or made of fewer signs.

What fits stays as it is. What does not is cut, or its signs replaced, and gets a mark of the whole, so that it is the
same in every turn of a conversation and no two become one.
"""

import hashlib
import re

MOST_LETTERS = 64
"""What chat providers take for a tool's name and for a user's id."""
MOST_CALL_LETTERS = 40
"""What OpenAI takes for the id of a call."""
_STRANGE = re.compile(r"[^a-zA-Z0-9_-]")
_OPAQUE = re.compile(r"[a-zA-Z0-9_-]{1,256}")
_TELEPHONE = re.compile(r"[0-9-]{7,}")
_MARK_LETTERS = 8


def tool_name(name: str) -> str:
    """A tool's name for chat; Anthropic's may be twice as long."""
    return name if len(name) <= MOST_LETTERS else shortened(name)


def call_id(theirs: str) -> str:
    """A call's id for chat."""
    return theirs if len(theirs) <= MOST_CALL_LETTERS else shortened(theirs, most=MOST_CALL_LETTERS)


def tool_use_id(theirs: str) -> str:
    """A call's id for Anthropic, which has letters, digits, `_` and `-` only; others write `functions.look:0`."""
    return _STRANGE.sub("_", theirs) + f"_{_mark(theirs)}" if _STRANGE.search(theirs) or not theirs else theirs


def user_id(theirs: str) -> str:
    """A user's id for chat: it is nobody's to read, so that a mark is as good."""
    return theirs if len(theirs) <= MOST_LETTERS else _digest(theirs)


def opaque_user_id(theirs: str) -> str:
    """A user's id for Anthropic, which refuses requests that name somebody by address or telephone number."""
    return theirs if _OPAQUE.fullmatch(theirs) and not _TELEPHONE.fullmatch(theirs) else _digest(theirs)


def shortened(name: str, *, most: int = MOST_LETTERS) -> str:
    """The name cut, and told from others that begin alike."""
    return f"{name[: most - _MARK_LETTERS - 1]}_{_mark(name)}"


def _mark(text: str) -> str:
    return _digest(text)[:_MARK_LETTERS]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
