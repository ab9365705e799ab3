"""The pool, transactions and migrations, on a real PostgreSQL."""

import asyncio
import secrets
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from chassis import db
from chassis.errors import Code, TollbridgeError
from chassis.settings import SettingsError
from cli.logins import make_login
from cli.schema import migrate
from tests.conftest import RunningServer
from tests.patience import promised

FIRST = """
from alembic import op
revision = "0001"
down_revision = None
def upgrade() -> None:
    op.execute("CREATE TABLE {s}.things (id bigint PRIMARY KEY, note text NOT NULL CHECK (note::text <> 'none %'))")
    op.execute("CREATE TABLE {s}.facts (id bigserial PRIMARY KEY)")
    op.execute("REVOKE UPDATE, DELETE ON {s}.facts FROM tollbridge_{s}")
"""
SECOND = """
from alembic import op
revision: str = "0002"
down_revision: str | None = "0001"
def upgrade() -> None:
    op.execute("ALTER TABLE {s}.things ADD COLUMN extra bigint NOT NULL DEFAULT 0")
"""


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A made-up service with one migration, found as `services.<name>` like a real one."""
    import services

    name = "probe_" + "".join(secrets.choice("abcdefgh") for _ in range(8))
    versions = tmp_path / name / "migrations" / "versions"
    versions.mkdir(parents=True)
    (tmp_path / name / "__init__.py").write_text("raise AssertionError('imported')\n")
    (versions / "0001_things.py").write_text(FIRST.format(s=name))
    monkeypatch.setattr(services, "__path__", [*services.__path__, str(tmp_path)])
    yield name
    sys.modules.pop(f"services.{name}", None)


def versions_of(service: str) -> Path:
    return db.versions_folder(service)


@pytest.mark.parametrize("url", ["postgresq//auth:s3cret@h/x", "postgresql://auth:s3cret%zz@h/x"])
async def test_a_url_that_is_none_is_a_wrong_setting_and_quoted_nowhere(url: str) -> None:
    """libpq's words would put its password into the log."""
    with pytest.raises(SettingsError, match="TOLLBRIDGE_DATABASE_URL is no PostgreSQL URL") as caught:
        await db.open_pool(url, role="auth")
    assert caught.value.__suppress_context__


async def test_the_service_acts_as_its_own_role_with_only_the_rights_its_migrations_left(
    postgres_url: str, service: str
) -> None:
    """It reads and writes its tables, and can't do what a migration revoked."""
    migrate(postgres_url, service=service)
    pool = await db.open_pool(postgres_url, role=service)
    try:
        await db.wait_for_schema(pool, service=service, timeout_s=30)
        async with db.transaction(pool) as connection:
            row = await (await connection.execute("SELECT current_user::text")).fetchone()
            assert row == (f"tollbridge_{service}",)
            await connection.execute(f"INSERT INTO {service}.things (id, note) VALUES (1, 'a')")
            await connection.execute(f"INSERT INTO {service}.facts DEFAULT VALUES")
        for forbidden in (
            f"DELETE FROM {service}.facts",
            f"DELETE FROM {service}.alembic_version",
            f"DROP TABLE {service}.things",
            f"CREATE TABLE {service}.more (id int)",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                async with db.transaction(pool) as connection:
                    await connection.execute(forbidden)
    finally:
        await pool.close()


def test_migrating_twice_at_once_is_migrating_once(postgres_url: str, service: str) -> None:
    """Four migrations that start together leave one schema and no error."""
    failures: list[Exception] = []

    def run() -> None:
        try:
            migrate(postgres_url, service=service)
        except Exception as error:  # noqa: BLE001  # the thread's failure is what is asserted
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []


def test_two_databases_of_one_cluster_may_be_migrated_at_once(
    postgres_url: str, service: str, postgres_server: RunningServer
) -> None:
    """The role belongs to the cluster, and the second to create it takes the first one's."""
    other = postgres_server.server.url("postgres")
    failures: list[Exception] = []

    def run(url: str) -> None:
        try:
            migrate(url, service=service)
        except Exception as error:  # noqa: BLE001  # the thread's failure is what is asserted
            failures.append(error)

    threads = [threading.Thread(target=run, args=(url,)) for url in (postgres_url, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    with psycopg.connect(other, autocommit=True) as connection:
        connection.execute(f"DROP SCHEMA IF EXISTS {service} CASCADE")
    assert failures == []


async def test_who_waits_in_vain_for_a_schema_says_what_was_in_the_way(postgres_url: str, service: str) -> None:
    """A wrong password is no missing migration, and the log tells the two apart, without the password."""
    wrong = make_conninfo(postgres_url, password="not-the-password")
    for url, reason in ((wrong, "password authentication failed"), (postgres_url, "does not exist")):
        pool = await db.open_pool(url, role=service)
        try:
            with pytest.raises(TollbridgeError, match=reason) as missing:
                await db.wait_for_schema(pool, service=service, timeout_s=0)
        finally:
            await pool.close()
        assert "not-the-password" not in missing.value.message
        assert missing.value.code is Code.UNAVAILABLE


async def test_a_service_waits_for_its_schema_and_takes_a_newer_one(postgres_url: str, service: str) -> None:
    """Waiting ends when the migration is there; older code then runs on the newer schema and migrates nothing."""
    pool = await db.open_pool(postgres_url, role=service)
    try:
        with pytest.raises(TollbridgeError) as missing:
            await db.wait_for_schema(pool, service=service, timeout_s=0.3)
        assert missing.value.code is Code.UNAVAILABLE

        waiting = asyncio.create_task(db.wait_for_schema(pool, service=service, timeout_s=20))
        await asyncio.to_thread(migrate, postgres_url, service=service)
        await waiting

        newer = versions_of(service) / "0002_extra.py"
        newer.write_text(SECOND.format(s=service))
        with pytest.raises(TollbridgeError):
            await db.wait_for_schema(pool, service=service, timeout_s=0.2)
        await asyncio.to_thread(migrate, postgres_url, service=service)
        await db.wait_for_schema(pool, service=service, timeout_s=30)
        newer.unlink()
        await asyncio.to_thread(migrate, postgres_url, service=service)
        await db.wait_for_schema(pool, service=service, timeout_s=30)
        async with db.transaction(pool) as connection:
            cursor = await connection.execute(f"SELECT version_num FROM {service}.alembic_version")
            assert await cursor.fetchone() == ("0002",)
    finally:
        await pool.close()


async def test_a_deadlock_is_tried_again_from_the_beginning(postgres_url: str, service: str) -> None:
    """Two transactions that lock each other's rows both end well."""
    migrate(postgres_url, service=service)
    pool = await db.open_pool(postgres_url, role=service)
    try:
        async with db.transaction(pool) as connection:
            await connection.execute(f"INSERT INTO {service}.things VALUES (1, 'a'), (2, 'b')")
        both_hold = asyncio.Barrier(2)
        runs = 0

        async def cross(first: int, second: int) -> None:
            started = False

            async def work(connection: db.Connection) -> None:
                nonlocal started, runs
                runs += 1
                update = f"UPDATE {service}.things SET note = note || 'x' WHERE id = %s"
                await connection.execute(update, (first,))
                if not started:
                    started = True
                    await both_hold.wait()
                await connection.execute(update, (second,))

            await db.in_transaction(pool, work)

        await asyncio.gather(cross(1, 2), cross(2, 1))
        async with db.transaction(pool) as connection:
            cursor = await connection.execute(f"SELECT note FROM {service}.things ORDER BY id")
            assert await cursor.fetchall() == [("axx",), ("bxx",)]
        assert runs == 3
    finally:
        await pool.close()


async def test_a_lost_database_is_unavailable_at_once_and_found_again(
    postgres_url: str, service: str, postgres_server: RunningServer
) -> None:
    """While PostgreSQL is dead each call fails within 2 s as UNAVAILABLE; back again, calls succeed within 10 s."""
    migrate(postgres_url, service=service)
    pool = await db.open_pool(postgres_url, role=service)
    loop = asyncio.get_running_loop()

    async def ask() -> None:
        async with db.transaction(pool) as connection:
            await connection.execute("SELECT 1")

    try:
        await ask()
        await asyncio.to_thread(postgres_server.kill)
        deadline = loop.time() + 2
        while loop.time() < deadline:  # a backend may answer once more before it sees that its server is gone
            try:
                await ask()
            except TollbridgeError:
                break
        for _ in range(6):
            began = loop.time()
            with pytest.raises(TollbridgeError) as lost:
                await ask()
            assert lost.value.code is Code.UNAVAILABLE
            assert lost.value.retry_after_s == 1
            assert db.is_unavailable(lost.value)
            assert loop.time() - began < promised(2)
        await asyncio.to_thread(postgres_server.start)
        deadline = loop.time() + 30
        while True:
            try:
                await ask()
                break
            except TollbridgeError:
                assert loop.time() < deadline
    finally:
        if not postgres_server.runs:
            await asyncio.to_thread(postgres_server.start)
        await pool.close()


def test_what_is_wrong_with_the_statement_is_not_unavailable() -> None:
    """A broken constraint comes back as it is, however often it is tried."""
    assert not db.is_unavailable(psycopg.errors.CheckViolation())
    assert not db.is_unavailable(ValueError())
    assert not db.is_unavailable(TollbridgeError(Code.CONFLICT, "no"))
    assert db.is_unavailable(psycopg.errors.QueryCanceled())


@pytest.mark.parametrize("name", ["", "Billing", "a;b", "x" * 40])
def test_no_name_reaches_sql_unchecked(name: str) -> None:
    """Names of services stand in SQL, so all but plain words are refused."""
    with pytest.raises(ValueError, match="no name of a service"):
        db.role_of(name)


async def test_a_statement_alone_is_a_transaction_and_leaves_the_connection_as_it_was(
    postgres_url: str, service: str
) -> None:
    """Done at once, nothing of it when it fails, and the next transaction on that connection is a whole one."""
    migrate(postgres_url, service=service)
    pool = await db.open_pool(postgres_url, role=service, max_size=1)
    pool.timeout = promised(pool.timeout)
    insert = f"INSERT INTO {service}.things SELECT * FROM (VALUES (1, 'x'), (%s, 'y')) AS given".encode()
    count = f"SELECT count(*) FROM {service}.things".encode()
    with pytest.raises(psycopg.errors.UniqueViolation):
        await db.in_transaction(pool, lambda connection: connection.execute(insert, (1,)), alone=True)
    await db.in_transaction(pool, lambda connection: connection.execute(insert, (2,)), alone=True)

    async def in_vain(connection: db.Connection) -> None:
        await connection.execute(insert.replace(b"1", b"3"), (4,))
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await db.in_transaction(pool, in_vain)
    async with db.transaction(pool) as connection:
        assert await (await connection.execute(count)).fetchone() == (2,)
    await pool.close()


async def test_a_statement_alone_that_is_cancelled_spoils_no_connection(postgres_url: str, service: str) -> None:
    """Whoever gets it next can work with it."""
    migrate(postgres_url, service=service)
    pool = await db.open_pool(postgres_url, role=service, max_size=1)
    pool.timeout = promised(5)
    sleeping = asyncio.create_task(
        db.in_transaction(pool, lambda connection: connection.execute("SELECT pg_sleep(4)"), alone=True)
    )
    asleep = "SELECT FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(4)' AND wait_event = 'PgSleep'"
    async with await psycopg.AsyncConnection.connect(postgres_url, autocommit=True) as watch, asyncio.timeout(20):
        while (await watch.execute(asleep)).rowcount == 0:  # noqa: ASYNC110  only the server knows
            await asyncio.sleep(0.01)
    sleeping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sleeping
    async with db.transaction(pool) as connection:
        assert not connection.autocommit
        assert await (await connection.execute("SELECT 1")).fetchone() == (1,)
    await pool.close()


async def test_an_owner_who_is_no_superuser_can_migrate_and_make_the_logins(postgres_url: str, service: str) -> None:
    """As at a provider of databases: it may create roles, and in its database anything, and needs no more."""
    owner = make_conninfo(postgres_url, user=f"owner_{service}", password="of its own", dbname=f"of_{service}")
    login = make_conninfo(owner, user=f"login_{service}", password="another")
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE owner_{service} LOGIN CREATEROLE PASSWORD 'of its own'")
        connection.execute(f"CREATE DATABASE of_{service} OWNER owner_{service}")
    try:
        migrate(owner, service=service)
        for _ in range(2):
            make_login(owner, service=service, url=login)
        pool = await db.open_pool(login, role=service, pooler="pgbouncer")
        try:
            await db.wait_for_schema(pool, service=service, timeout_s=30)
        finally:
            await pool.close()
    finally:
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE of_{service} WITH (FORCE)")
            connection.execute(f"DROP ROLE IF EXISTS login_{service}, tollbridge_{service}, owner_{service}")
