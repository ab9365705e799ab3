"""`tollbridge migrate` and who may log in: an own login for each service, and databases that are refused in words."""

import asyncio
import secrets
from collections.abc import Callable, Iterator

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from chassis import db
from chassis.settings import ServiceSettings, SettingsError
from cli.migrate import MigrationRefused, migrate_all
from tests.unit.cli.test_commands import tollbridge

Named = Callable[[str], str]


@pytest.fixture(scope="module")
def migrated(postgres_url: str) -> str:
    """A database with two of the schemas."""
    for service in ("auth", "router"):
        list(migrate_all(postgres_url, only=service))
    return postgres_url


@pytest.fixture
def named(migrated: str) -> Iterator[Named]:
    """Gives the database's URL for a user of the test's own, whom it drops in the end."""
    made: dict[str, str] = {}

    def url(purpose: str) -> str:
        user = made.setdefault(purpose, f"{purpose}_{secrets.token_hex(4)}")
        return make_conninfo(migrated, user=user, password=f"secret of {user}")

    yield url
    with psycopg.connect(migrated) as connection:
        for user in made.values():
            connection.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(user)))


def told(owner: str, service: str, url: str) -> list[str]:
    """What the migration says with that URL as the service's."""
    return list(migrate_all(owner, only=service, environ={f"TOLLBRIDGE_{service.upper()}_DATABASE_URL": url}))


def user_of(url: str) -> str:
    """Whom it logs in."""
    return str(conninfo_to_dict(url)["user"])


async def test_a_service_works_with_a_login_of_its_own_and_opens_nothing_else(migrated: str, named: Named) -> None:
    """Role and limits come with the login, so they hold behind a pooler, where nobody can ask for them."""
    url = named("auth")
    assert (await asyncio.to_thread(told, migrated, "auth", url))[-1] == f"auth: {user_of(url)} logs in"
    own = ServiceSettings(database_url=url, database_pooler="pgbouncer", database_connections=2)
    pool = await db.service_pool(own, role="auth")
    try:
        assert "options" not in conninfo_to_dict(str(pool.conninfo))
        assert pool.max_size == 2
        await db.wait_for_schema(pool, service="auth", timeout_s=20)
        async with db.transaction(pool) as connection:
            row = await (
                await connection.execute("SELECT current_user, current_setting('statement_timeout')")
            ).fetchone()
            assert row == ("tollbridge_auth", "5s")
            await connection.execute("SELECT count(*) FROM auth.customers")
            assert connection.prepare_threshold is None
        # Without its role it may do nothing at all.
        without = "SET LOCAL ROLE NONE; SELECT count(*) FROM auth.customers"
        for theft in ("SELECT * FROM router.slots", "SET ROLE tollbridge_router", "CREATE ROLE more", without):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                async with db.transaction(pool) as connection:
                    await connection.execute(theft)
    finally:
        await pool.close()


def test_routers_login_lets_go_of_its_locks_as_early_as_routers_pool_does(migrated: str, named: Named) -> None:
    """A paused replica holds up its neighbours no longer behind a pooler."""
    from services.router.store_desk import IDLE_MS

    told(migrated, "router", named("router"))
    with psycopg.connect(named("router")) as connection:
        row = connection.execute(
            "SELECT setting FROM pg_settings WHERE name = 'idle_in_transaction_session_timeout'"
        ).fetchone()
        assert row == (str(IDLE_MS),)


def test_a_new_password_is_taken_and_one_that_works_is_left_alone(migrated: str, named: Named) -> None:
    """Poolers keep what they know of a password, so that each migration must not make another of it."""
    url = named("auth")

    def verifier() -> object:
        with psycopg.connect(migrated) as connection:
            return connection.execute("SELECT rolpassword FROM pg_authid WHERE rolname = %s", [user_of(url)]).fetchone()

    told(migrated, "auth", url)
    first = verifier()
    told(migrated, "auth", url)
    assert verifier() == first
    rotated = make_conninfo(url, password="another secret")
    told(migrated, "auth", rotated)
    psycopg.connect(rotated).close()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(url)


def test_a_user_that_may_do_more_is_refused(migrated: str, named: Named) -> None:
    """The owner, the role itself or another service's login would be more than what one service should open."""
    told(migrated, "router", named("router"))
    for url in (migrated, named("router"), make_conninfo(migrated, user="tollbridge_auth")):
        with pytest.raises(MigrationRefused, match="may do more than auth should") as refused:
            told(migrated, "auth", url)
        assert str(conninfo_to_dict(url)["password"]) not in str(refused.value)
    with pytest.raises(MigrationRefused, match="no user or no password"):
        told(migrated, "auth", "postgresql://127.0.0.1/x")


async def test_a_service_refuses_to_start_behind_a_pooler_with_a_login_that_is_not_its_own(
    migrated: str, named: Named
) -> None:
    """Else it would run as whoever logs in, with no limits, and nobody would see it."""
    foreign = named("router")
    await asyncio.to_thread(told, migrated, "router", foreign)
    for url, who in ((migrated, "tollbridge"), (foreign, "tollbridge_router")):
        pool = await db.open_pool(url, role="auth", pooler="pgbouncer")
        try:
            with pytest.raises(SettingsError, match=f"acts as {who}, not as tollbridge_auth"):
                await db.wait_for_schema(pool, service="auth", timeout_s=0)
        finally:
            await pool.close()
    endless = named("endless")
    await asyncio.to_thread(told, migrated, "auth", endless)
    with psycopg.connect(migrated) as connection:
        change = sql.SQL("ALTER ROLE {} SET statement_timeout TO 0")
        connection.execute(change.format(sql.Identifier(user_of(endless))))
    pool = await db.open_pool(endless, role="auth", pooler="pgbouncer")
    try:
        with pytest.raises(SettingsError, match="no statement_timeout"):
            await db.wait_for_schema(pool, service="auth", timeout_s=20)
    finally:
        await pool.close()


def test_a_database_that_cant_keep_every_text_is_refused_in_words(migrated: str) -> None:
    """SQL_ASCII is what a server without a locale makes; it would fail at the first name with an umlaut."""
    name = f"ascii_{secrets.token_hex(4)}"
    with psycopg.connect(migrated, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0")
        try:
            done = tollbridge("migrate", TOLLBRIDGE_DATABASE_URL=make_conninfo(migrated, dbname=name))
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    assert done.returncode == 2
    assert "SQL_ASCII" in done.stderr
    assert "ENCODING 'UTF8'" in done.stderr
    assert "Traceback" not in done.stderr
