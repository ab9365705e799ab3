"""SQL of `reconciliations`: every proof of the ledger that was recorded, never changed. Alerts are made from it."""

import datetime
import enum

import msgspec
import psycopg

from chassis.db import Connection
from chassis.ids import uuid7

_ADD = """
    INSERT INTO billing.reconciliations (id, kind, subject, clean, differences, report)
    VALUES (%s, %s, %s, %s, %s, %s::jsonb)
"""
_NEWEST = """
    SELECT DISTINCT ON (kind, subject) kind, subject, clean, differences, made_at
    FROM billing.reconciliations ORDER BY kind, subject, made_at DESC
"""


class Proof(enum.StrEnum):
    """What was asked."""

    VERIFY = "verify"
    REPLAY = "replay"
    RECONCILE = "reconcile"


class Proven(msgspec.Struct, frozen=True, kw_only=True):
    """The newest answer to one question; `subject` is the provider of a reconcile."""

    kind: str
    subject: str
    clean: bool
    differences: int
    made_at: datetime.datetime


def record(url: str, kind: Proof, report: msgspec.Struct, *, clean: bool, differences: int, subject: str = "") -> None:
    """Adds a proof in a transaction of its own. Raises psycopg.Error."""
    content = msgspec.json.encode(report).decode()
    with psycopg.connect(url) as connection:
        connection.execute(_ADD, (uuid7(), str(kind), subject, clean, differences, content))


async def newest(connection: Connection) -> list[Proven]:
    """The newest proof of each kind and subject."""
    cursor = await connection.execute(_NEWEST)
    return [
        Proven(kind=kind, subject=subject, clean=clean, differences=differences, made_at=made_at)
        for kind, subject, clean, differences, made_at in await cursor.fetchall()
    ]
