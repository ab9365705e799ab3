"""What a job is and which way it may go: pending → running → succeeded | failed | cancelled. Pure.

The table below is the only law of it. SQL asks `sources` for the states that a move may start from, so that of two
moves at once the database lets exactly one through, and a job that has ended stays as it ended.

A running job carries the number of its claim. Whoever runs it says that number with every move, so that a worker that
was thought dead can't end a job that another has taken up again.
"""

import dataclasses
import enum

MAX_STRIKES = 8
"""After so many claims that came to nothing for which the job may be the reason, it fails."""
LEASE_S = 30.0
"""How long a claim lives without a heartbeat."""
HEARTBEAT_S = 5.0
ACCEPTANCE_HOLD_S = 120.0
"""A hold lives so long until its job is there: should it never come to be, its money is soon free."""
HOLD_GRACE_S = 24 * 3600.0
"""Once the job is there its hold outlives it by a day, so that a late settlement still finds its money."""
MAX_PAUSE_S = 30.0
MAX_OUTAGE_S = 180.0
WAIT_S = 1.0
"""A job that nobody has room for is looked at again after this, or after what is said of the room."""


class Status(enum.StrEnum):
    """Where a job is. The value is what the database holds."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """True for the three that nothing follows."""
        return self not in (Status.PENDING, Status.RUNNING)


class Move(enum.StrEnum):
    """What can happen to a job."""

    CLAIM = "claim"
    RELEASE = "release"
    """Given back unfinished, to be tried again: by its worker, or for it when its lease has lapsed."""
    SUCCEED = "succeed"
    FAIL = "fail"
    CANCEL = "cancel"


class IllegalMove(ValueError):
    """A move that the job's state has no room for."""


_LAW: dict[Move, dict[Status, Status]] = {
    Move.CLAIM: {Status.PENDING: Status.RUNNING},
    Move.RELEASE: {Status.RUNNING: Status.PENDING},
    Move.SUCCEED: {Status.RUNNING: Status.SUCCEEDED},
    Move.FAIL: {Status.PENDING: Status.FAILED, Status.RUNNING: Status.FAILED},
    Move.CANCEL: {Status.PENDING: Status.CANCELLED, Status.RUNNING: Status.CANCELLED},
}


def after(status: Status, move: Move) -> Status:
    """The state that follows. Raises IllegalMove."""
    target = _LAW[move].get(status)
    if target is None:
        raise IllegalMove(f"a job that is {status.value} can't {move.value}")
    return target


def sources(move: Move) -> list[str]:
    """The states that a move may start from, as the database writes them."""
    return [status.value for status in _LAW[move]]


def pause_s(strikes: int, *, chance: float) -> float:
    """How long to wait before a provider is asked again after so many strikes: 1, 2, 4 … seconds, 90 s in all.

    Accounts that keep failing rest, and to wait for those is no strike. `chance` (0 to 1) spreads what failed together
    by a quarter to both sides.
    """
    return min(MAX_PAUSE_S, 2.0 ** _exponent(strikes)) * (0.75 + chance / 2)


def outage_s(strikes: int, *, chance: float) -> float:
    """The same after a fault of ours, that may last: 1, 3, 9 … seconds, 8 minutes in all."""
    return min(MAX_OUTAGE_S, 3.0 ** _exponent(strikes)) * (0.75 + chance / 2)


def _exponent(strikes: int) -> int:
    return max(0, min(strikes, 10) - 1)


def wait_s(least_s: float | None, *, chance: float) -> float:
    """How long a job that only waits its turn is left alone: what it was told at least, and up to half as much more."""
    return max(WAIT_S, least_s or 0.0) * (1 + chance / 2)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ResultFile:
    """A file that a job made; its bytes are in the object store under `file_id`."""

    file_id: str
    content_type: str
    size_bytes: int
    expires_at_us: int = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """What a job has running at a provider: the account that knows it, and the provider's own id of it."""

    provider_account_id: str
    provider_task_id: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """Tokens that its provider reported: of text and of pictures in, of whatever it made out."""

    text_tokens: int = 0
    image_tokens: int = 0
    output_tokens: int = 0


NOTHING_USED = Used()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What was ordered, at which price, and the money held for it. Never changes."""

    id: str
    """UUIDv7; also the request id of its charge."""
    customer_id: str
    key_id: str
    kind: str
    model: str
    body: bytes = dataclasses.field(repr=False)
    """What the client asked for; read by the worker that claims the job, empty for all others."""
    price_version: str
    hold_id: str
    hold_nano_usd: int
    time_to_live_s: float
    """Counted from acceptance; a job that has not ended by then fails."""
    traceparent: str = ""
    webhook_url: str = ""
    """Who is told of its end; empty: nobody."""
    files_url: str = ""
    """What the links to its files begin with."""
    shown: bytes = b""
    """What of it its customer is shown, as JSON; written once, not read with the others."""

    @property
    def is_held(self) -> bool:
        """Whether money is held for it: not for what costs nothing whatever it turns out to be."""
        return self.hold_nano_usd > 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job as it is now. Times are microseconds since the epoch, 0 before they are."""

    order: Order
    status: Status
    created_at_us: int
    deadline_us: int
    started_at_us: int = 0
    finished_at_us: int = 0
    claims: int = 0
    """How often a worker took it up; the newest claim's number."""
    strikes: int = 0
    """How many of its claims came to nothing: an attempt failed, something broke, or the worker died. To wait for a
    busy provider, or for a service that is away, is none."""
    spender: str = ""
    charge_nano_usd: int = 0
    error_code: str = ""
    error_message: str = ""
    submission: Submission | None = None
    progress: float = 0.0
    """0 to 1; 1 for those that succeeded only."""
    failures: int = 0
    """How often it was given back because a provider had failed: what is sent then is another order."""
    version: int = 1
    """Grows with every change that its customer can see."""
    results: tuple[ResultFile, ...] = ()
    used: Used = NOTHING_USED
    deleted: bool = False
    """Whether its customer deleted it, with all that it made."""
