"""Providers that work on a job of their own: it is submitted, asked after until it is over, and then fetched.

`JobWire` is what each such protocol's file offers; nothing here knows one of them.
"""

import dataclasses
import enum
from collections.abc import Mapping
from typing import Protocol

from upstream.client import HttpCall
from upstream.route import Route
from upstream.usage import Captured

MAX_STATE_BYTES = 1 << 20
MAX_ID_CHARACTERS = 500


class JobState(enum.Enum):
    """Where the provider's job is."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class JobReport:
    """What a provider says of its job. `links` is what it made, where it says so by links; `progress` is 0 to 1.

    `seconds` is how long the video is, where it says so. `is_rejected`: it failed for what was asked, which no other
    provider account would make either; `problem` may be shown to whoever asked, so it holds no secret.
    """

    id: str
    state: JobState
    progress: float = 0.0
    links: tuple[str, ...] = ()
    problem: str = ""
    is_rejected: bool = False
    seconds: int | None = None
    captured: Captured = dataclasses.field(default_factory=Captured)


class JobWire(Protocol):
    """One protocol."""

    def submit(self, fields: Mapping[str, object], route: Route, *, request_id: str) -> HttpCall:
        """The call that begins a job; `fields` are the client's, in OpenAI's names."""

    def poll(self, job_id: str, route: Route) -> HttpCall:
        """The call that asks after it."""

    def content(self, job_id: str, route: Route) -> HttpCall | None:
        """The call that fetches what it made; None where reports have links."""

    def cancel(self, job_id: str, route: Route) -> HttpCall:
        """The call that ends it. That it is over or unknown already is no failure."""

    def read(self, body: bytes) -> JobReport:
        """Reads the answer to `submit` or `poll`. Raises AttemptFailed when it is none."""


def is_id(text: str) -> bool:
    """Whether a provider's name of its job is one that can be kept and asked for."""
    return 1 <= len(text) <= MAX_ID_CHARACTERS and text.isprintable()


def bearer(route: Route) -> dict[str, str]:
    """The headers of every call."""
    headers = {"accept": "application/json"}
    if route.credential:
        headers["authorization"] = f"Bearer {route.credential}"
    return headers
