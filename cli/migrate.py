"""`tollbridge migrate`: every schema to what this code needs. A schema that is there already costs one look at it.

Alembic and SQLAlchemy are loaded only when a schema is missing something, so that a second start stays quick.
"""

import asyncio
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
from psycopg_pool import AsyncConnectionPool

from chassis import db
from chassis.errors import TollbridgeError
from cli.services import SERVICES

CONNECT_TIMEOUT_S = 10


class MigrationRefused(Exception):
    """Nothing was migrated; the message says why."""


def migrate_all(database_url: str, *, only: str = "") -> Iterator[str]:
    """Migrates all services or `only` one; yields a line for each. Raises MigrationRefused."""
    if not database_url:
        raise MigrationRefused("TOLLBRIDGE_DATABASE_URL is not set")
    if only and only not in SERVICES:
        raise MigrationRefused(f"{only!r} is none of {', '.join(SERVICES)}")
    _reach(database_url)
    wanted = [service for service in SERVICES if only in ("", service) and _has_schema(service)]
    present = asyncio.run(_up_to_date(database_url, wanted))
    for service in wanted:
        if service in present:
            yield f"{service}: up to date"
            continue
        db.migrate(database_url, service=service)
        yield f"{service}: migrated"


def _reach(database_url: str) -> None:
    try:
        psycopg.connect(database_url, connect_timeout=CONNECT_TIMEOUT_S).close()
    except psycopg.ProgrammingError:  # its words would quote the URL, password included
        raise MigrationRefused("TOLLBRIDGE_DATABASE_URL is no PostgreSQL URL") from None
    except psycopg.Error as error:
        raise MigrationRefused(f"the database can't be reached: {error}") from error


async def _up_to_date(database_url: str, services: list[str]) -> set[str]:
    found = await asyncio.gather(*(_is_up_to_date(database_url, service) for service in services))
    return {service for service, is_there in zip(services, found, strict=True) if is_there}


async def _is_up_to_date(database_url: str, service: str) -> bool:
    pool: db.Pool = AsyncConnectionPool(database_url, open=False)  # never opened: only says where to ask
    try:
        await db.wait_for_schema(pool, service=service, timeout_s=0)
    except TollbridgeError:
        return False
    return True


def _has_schema(service: str) -> bool:
    spec = importlib.util.find_spec(f"services.{service}")
    places = spec.submodule_search_locations if spec else None
    return any(any(Path(place, "migrations", "versions").glob("*.py")) for place in places or ())


def main() -> None:
    """`python -m cli.migrate`: the supervisor's, without what a command line takes to load."""
    try:
        for line in migrate_all(os.environ.get("TOLLBRIDGE_DATABASE_URL", "")):
            print(line)
    except MigrationRefused as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
