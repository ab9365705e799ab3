"""Statements in pages: everything that an incarnation holds, told to its owner in calls of bounded size.

A page speaks of one range of ids, so each is right by itself, in any order, late or twice. The ids are made by this
process and sort by time; `as_of` (`ids.now_floor` of the moment that the list was taken) is where the last range ends,
so that what begins after it is in none.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")

PAGE = 2000


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[T]):
    """What lives in [from, until); an empty `from_id` is the first there may be."""

    from_id: str
    until_id: str
    listed: Sequence[T]


def pages(listed: Sequence[T], *, id_of: Callable[[T], str], as_of: str) -> Iterator[Page[T]]:
    """The pages of one statement; one that is empty when nothing is held, since that is to be told too."""
    ordered = sorted(listed, key=id_of)
    for start in range(0, max(len(ordered), 1), PAGE):
        rest = ordered[start + PAGE : start + PAGE + 1]
        yield Page(
            from_id=min(id_of(ordered[start]), as_of) if start else "",
            until_id=min(id_of(rest[0]), as_of) if rest else as_of,
            listed=ordered[start : start + PAGE],
        )
