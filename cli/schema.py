"""One service's schema, role and rights: made and brought to what its migrations say.

Migrations are alembic revisions with plain SQL in `services/<service>/migrations/versions`. Who migrates owns the
tables, so that a migration can take rights away from the service for good. Alembic and SQLAlchemy are loaded here
alone, since a service that runs needs neither.
"""

import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

import psycopg

from chassis import db

if TYPE_CHECKING:
    from alembic.script import ScriptDirectory
    from sqlalchemy import Connection

LOCK_TIMEOUT_S = 60


def migrate(url: str, *, service: str) -> None:
    """Brings the service's schema to this code's head, in one transaction; safe to run twice at once.

    Creates the schema and the role when missing. A schema newer than this code is left alone. The role may read and
    write every table that the migrations make; what it must not do, they revoke.
    """
    from alembic.script import ScriptDirectory
    from sqlalchemy import create_engine, pool, text

    folder = db.versions_folder(service)
    engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(url), poolclass=pool.NullPool)
    with engine.begin() as connection:
        connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_S}s'"))
        lock = zlib.crc32(f"tollbridge migrations of {service}".encode())
        connection.execute(text(f"SELECT pg_advisory_xact_lock({lock})"))
        for statement in _foundation(service):
            connection.execute(text(statement))
        script = ScriptDirectory(str(folder.parent), version_locations=[str(folder)])
        _run_revisions(connection, script=script, service=service, known=db.revisions_in(folder))
    engine.dispose()


def _run_revisions(
    connection: "Connection", *, script: "ScriptDirectory", service: str, known: Mapping[str, object]
) -> None:
    """Runs what is missing inside the caller's transaction, without an alembic.ini or an env.py."""
    from alembic.config import Config
    from alembic.runtime.environment import EnvironmentContext
    from alembic.runtime.migration import MigrationContext, MigrationStep

    def missing(present: tuple[str, ...], _context: MigrationContext) -> list[MigrationStep]:
        if any(revision not in known for revision in present):
            return []
        # The call that alembic's own upgrade command makes; there is no public name for it.
        return list(script._upgrade_revs("head", present))  # type: ignore[arg-type]  # alembic takes the tuple

    with EnvironmentContext(Config(), script, fn=missing, destination_rev="head") as environment:
        environment.configure(connection=connection, version_table=db.VERSION_TABLE, version_table_schema=service)
        with environment.begin_transaction():
            environment.run_migrations()
    role = db.role_of(service)
    connection.exec_driver_sql(f"REVOKE ALL ON {service}.{db.VERSION_TABLE} FROM {role}")
    connection.exec_driver_sql(f"GRANT SELECT ON {service}.{db.VERSION_TABLE} TO {role}")


def _foundation(service: str) -> tuple[str, ...]:
    """Role, schema and the role's default rights on what the migrations will make.

    Roles belong to the whole cluster while an advisory lock belongs to one database, so a twin in another database may
    create the role between our look and our CREATE.
    """
    role = db.role_of(service)
    defaults = f"ALTER DEFAULT PRIVILEGES IN SCHEMA {service} GRANT"
    return (
        f"""DO $$ BEGIN
                CREATE ROLE {role} NOLOGIN;
            EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
            END $$""",
        f"""DO $$ BEGIN
                IF NOT pg_has_role(current_user, '{role}', 'SET') THEN GRANT {role} TO CURRENT_USER; END IF;
            END $$""",
        f"CREATE SCHEMA IF NOT EXISTS {service}",
        f"GRANT USAGE ON SCHEMA {service} TO {role}",
        f"{defaults} SELECT, INSERT, UPDATE, DELETE ON TABLES TO {role}",
        f"{defaults} USAGE, SELECT ON SEQUENCES TO {role}",
        f"{defaults} EXECUTE ON FUNCTIONS TO {role}",
    )
