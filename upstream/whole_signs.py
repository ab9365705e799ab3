"""JSON from providers that cut texts in the middle of a sign, as JavaScript lets them.

Half a surrogate pair is no Unicode: readers of JSON refuse it, and with it the whole answer. It becomes U+FFFD.
"""

import re

_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|u[dD][89a-fA-F][0-9a-fA-F]{2}|.)", re.DOTALL
)
"""A pair, a half, or any other escape: all are stepped over, so that no half is seen where none is."""
_HALF_LENGTH = len(rb"\ud800")


def may_hold_halves(data: bytes) -> bool:
    """Whether there are escapes in it that could be halves. Costs no more than two searches."""
    return b"\\ud" in data or b"\\uD" in data


def with_whole_signs(data: bytes) -> bytes:
    """The same JSON, its texts made of whole signs only."""
    if not may_hold_halves(data):
        return data
    return _ESCAPE.sub(lambda found: rb"\ufffd" if len(found[0]) == _HALF_LENGTH else found[0], data)
