"""Parts of files, as clients ask for them: one range of bytes, and whether what they have is still what there is. Pure.

Several ranges at once, and what can't be read as a range, are answered with the whole, as the standard (RFC 9110)
allows. A file never changes under its id, so that its id is its tag.
"""

import dataclasses
import re
from collections.abc import Mapping

_ONE = re.compile(r"\s*bytes\s*=\s*([0-9]{0,15})-([0-9]{0,15})\s*", re.IGNORECASE)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """From `first` to `last`, both included, or to the end; without `first` the last `last` bytes."""

    first: int | None
    last: int | None

    @property
    def offset(self) -> int:
        """Where it begins; below 0: so many bytes before the end."""
        return -(self.last or 0) if self.first is None else self.first

    @property
    def most_bytes(self) -> int | None:
        """It is no longer than this; None: as long as there is more."""
        if self.first is None or self.last is None:
            return self.last
        return self.last + 1 - self.first

    def within(self, size: int) -> tuple[int, int] | None:
        """Its start and end (not included) in a file of that size; None when it has none of its bytes."""
        if self.first is None:
            start, end = max(0, size - (self.last or 0)), size
        else:
            start, end = self.first, size if self.last is None else min(size, self.last + 1)
        return (start, end) if start < end else None


def asked_part(headers: Mapping[str, str], *, tag: str) -> Part | None:
    """The part that is asked for; None for the whole. The names of the headers are in small letters."""
    found = _ONE.fullmatch(headers.get("range", ""))
    if found is None or headers.get("if-range", tag) != tag:
        return None
    first, last = (int(text) if text else None for text in found.groups())
    if (first is None and last is None) or (first is not None and last is not None and first > last):
        return None
    return Part(first=first, last=last)


def is_known(headers: Mapping[str, str], *, tag: str) -> bool:
    """Whether the client has this already."""
    known = (each.strip().removeprefix("W/") for each in headers.get("if-none-match", "").split(","))
    return any(each in (tag, "*") for each in known)
