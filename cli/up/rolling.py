"""A rolling restart: each service process is replaced by a successor on the same address, one after another.

The successor is started first and must be ready; only then is its predecessor told, by SIGTERM, to leave: it announces
that, its listener closes, and what runs there ends well. So requests are served all the time, also by the only replica.
Owners come before edges, since new edges may ask what old owners don't know. NATS, PostgreSQL, local models and the
gate of the config file stay. Schemas are migrated first, so that new code may come into a running instance this way.
"""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from cli.up.helper_process import HelperFailed
from cli.up.supervised import Program, StartFailed, Supervised
from cli.up.topology import EDGE_GRACE_S, GRACE, OWNERS, Seat

READY_WITHIN_S = 90.0
PATIENCE_MARGIN_S = 40.0
"""For the announcement, and for what a process has to put away after the grace."""


@dataclass(slots=True)
class Post:
    """A place, and who has it now."""

    seat: Seat
    holder: Supervised


class House(Protocol):
    """The instance, as far as processes come and go in it."""

    def admit(self, program: Program) -> Supervised:
        """Starts a process that is not shown yet."""

    def show(self, successor: Supervised, *, instead_of: Supervised) -> None:
        """The one is shown in the place of the other."""

    def dismiss(self, one: Supervised) -> None:
        """It has ended for good."""


async def restart_all(
    posts: list[Post],
    *,
    house: House,
    migrate: Callable[[], Awaitable[object]],
    program: Callable[[Seat], Program],
    announce: Callable[[str], None],
) -> None:
    """Replaces everybody, after `migrate`: a new program may need what the old one's schemas don't have yet.

    If that fails, or at the first successor that doesn't become ready, all others stay as they are.

    Cancelled, it leaves the processes to `house`, which knows them all.
    """
    try:
        await migrate()
        for post in sorted(posts, key=lambda each: each.seat.service not in OWNERS):
            await _replace(post, house=house, program=program)
            announce(f"{post.holder.program.label} was replaced")
    except (HelperFailed, StartFailed) as error:
        announce(f"rolling restart given up, what runs goes on: {error}")
        return
    announce("rolling restart done")


async def _replace(post: Post, *, house: House, program: Callable[[Seat], Program]) -> None:
    never = asyncio.Event()
    seat = post.seat.next()
    successor = house.admit(program(seat))
    try:
        await successor.wait_ready(timeout_s=READY_WITHIN_S)
    except StartFailed:
        await successor.stop(patience_s=PATIENCE_MARGIN_S, hurry=never)
        house.dismiss(successor)
        raise
    former, post.seat, post.holder = post.holder, seat, successor
    house.show(successor, instead_of=former)
    grace_s = float(former.program.environ.get(GRACE, EDGE_GRACE_S))
    await former.stop(patience_s=grace_s + PATIENCE_MARGIN_S, hurry=never, by=signal.SIGTERM)
    house.dismiss(former)
