"""What is limited, for whom, and what edge and auth tell each other about it."""

import dataclasses
import enum
from collections.abc import Mapping


class Kind(enum.IntEnum):
    """What can be limited; requests and tokens in any 60 seconds, and requests at once."""

    REQUESTS = 1
    TOKENS = 2
    CONCURRENT = 3


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """Who shares, and how much of each kind that is limited; at least one, each above 0.

    `own` holds besides, for one of the keys that share: a request is let in by both, or not at all.
    """

    subject: str
    limits: Mapping[Kind, int]
    own: "Terms | None" = None

    def has(self, kind: Kind) -> bool:
        """Whether that kind is limited."""
        return kind in self.limits or (self.own is not None and self.own.has(kind))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """Units, and how long ago they were spent."""

    units: int
    age_ms: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class KindStatement:
    """What auth is told and asked about one kind: `LimitStatement` of the proto says what each field means."""

    kind: Kind
    limit: int
    spent: int
    lately: tuple[Spent, ...]
    open: int
    wanted: int
    needed: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """What auth is told and asked about one subject."""

    subject: str
    since: int
    number: int
    limits: tuple[KindStatement, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LeaseOfKind:
    """What auth answers about one kind."""

    held: int
    remaining: int
    retry_after_s: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What clients are told of one kind; `reset_s` is when the whole limit is free again, from now."""

    limit: int
    remaining: int
    reset_s: float
