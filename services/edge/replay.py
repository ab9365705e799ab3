"""What incarnations before this one left behind: their finished records are published, their started ones voided.

A former spool is deleted when billing has everything that was in it, so a replay that dies itself is done again by the
next incarnation. Reading is bounded by what was never confirmed.
"""

import asyncio
import functools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol
from uuid import UUID

import structlog

from chassis.spool import FormerSpool, Kind, Record, former
from services.edge.publisher import Publisher
from services.edge.settlement import voided
from tollbridge.usage.v1 import usage_pb2


class _Left(Protocol):
    """A former incarnation's spool (`chassis.spool.FormerSpool`)."""

    def delete(self) -> None: ...


async def replay(directory: Path, *, own: UUID, publisher: Publisher) -> int:
    """Hands everything unconfirmed of former incarnations to the publisher; returns how many events.

    Reads in a thread. An incarnation that still lives keeps its lock and is left alone.
    """
    log = structlog.get_logger()
    count = 0
    for spool in await asyncio.to_thread(_former, directory, own):
        events = await asyncio.to_thread(unconfirmed, spool.records())
        log.info("spool_replayed", incarnation=str(spool.incarnation), events=len(events))
        count += len(events)
        hand_over(spool, events, publisher.add_former)
    return count


def _former(directory: Path, own: UUID) -> list[FormerSpool]:
    return list(former(directory, own=own))


def hand_over(spool: _Left, events: list[usage_pb2.UsageRecorded], add: Callable[..., None]) -> None:
    """Gives the events away; the last one that is forgotten deletes the spool."""
    left = {event.request_id for event in events}
    if not left:
        spool.delete()
        return

    def forget(request_id: str) -> None:
        left.discard(request_id)
        if not left:
            spool.delete()

    for event in events:
        add(event, forget=functools.partial(forget, event.request_id))


def unconfirmed(records: Iterable[Record]) -> list[usage_pb2.UsageRecorded]:
    """One event for each request that was not forgotten: its end, or a void made of its beginning."""
    # What was forgotten is not read: the spool itself leaves it out.
    started: dict[bytes, bytes] = {}
    finished: dict[bytes, bytes] = {}
    for record in records:
        if record.kind is Kind.STARTED:
            started[record.key] = record.payload
        elif record.kind in {Kind.NOTE, Kind.FINISHED}:
            # A note is the end of a request that came to no other: its client had left.
            started.pop(record.key, None)
            finished[record.key] = record.payload
    ends = [usage_pb2.UsageRecorded.FromString(payload) for payload in finished.values()]
    return ends + [voided(usage_pb2.UsageRecorded.FromString(payload)) for payload in started.values()]
