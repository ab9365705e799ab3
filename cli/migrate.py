"""`tollbridge migrate`: every schema to what this code needs. A schema that is there already costs one look at it.

Alembic and SQLAlchemy are loaded only when a schema is missing something, so that a second start stays quick.
"""

import asyncio
import importlib.util
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import psycopg

from chassis import db
from cli.logins import LoginRefused, make_login, variable
from cli.schema import migrate
from cli.services import SERVICES

CONNECT_TIMEOUT_S = 10


class MigrationRefused(Exception):
    """Nothing was migrated; the message says why."""


def migrate_all(
    database_url: str, *, only: str = "", environ: Mapping[str, str] = MappingProxyType({})
) -> Iterator[str]:
    """Migrates all services or `only` one; yields a line for each. Raises MigrationRefused.

    A service whose own URL is in `environ` gets the login that this names.
    """
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
        else:
            migrate(database_url, service=service)
            yield f"{service}: migrated"
        if url := environ.get(variable(service)):
            yield f"{service}: {_login(database_url, service=service, url=url)} logs in"


def _reach(database_url: str) -> None:
    try:
        with psycopg.connect(database_url, connect_timeout=CONNECT_TIMEOUT_S) as connection:
            encoding = connection.info.parameter_status("server_encoding")
    except psycopg.ProgrammingError:  # its words would quote the URL, password included
        raise MigrationRefused("TOLLBRIDGE_DATABASE_URL is no PostgreSQL URL") from None
    except psycopg.Error as error:
        raise MigrationRefused(f"the database can't be reached: {error}") from error
    if encoding != "UTF8":
        made_anew = "CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0"
        raise MigrationRefused(f"the database's encoding is {encoding}, which can't keep every text; use {made_anew}")


def _login(database_url: str, *, service: str, url: str) -> str:
    try:
        return make_login(database_url, service=service, url=url)
    except LoginRefused as error:
        raise MigrationRefused(str(error)) from None
    except psycopg.Error as error:
        raise MigrationRefused(f"{variable(service)}: the login can't be made: {error}") from error


async def _up_to_date(database_url: str, services: list[str]) -> set[str]:
    found = await asyncio.gather(*(db.is_migrated(database_url, service=service) for service in services))
    return {service for service, is_there in zip(services, found, strict=True) if is_there}


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
