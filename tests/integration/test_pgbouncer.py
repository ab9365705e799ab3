"""The pools behind a real PgBouncer that pools by transaction; skipped where none is installed."""

import asyncio
import secrets
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from chassis import db
from chassis.settings import SettingsError
from cli.migrate import migrate_all
from cli.up.ports import pick_ports
from tests.integration.deployed import DeployedPgBouncer, find_pgbouncer

SESSIONS = 2
CLIENTS = 12
TURNS = 8
"""More than psycopg needs to make a statement a prepared one (5)."""


@pytest.fixture(scope="module")
def behind(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of auth's own login at a PgBouncer with very few sessions."""
    program = find_pgbouncer()
    if program is None:
        pytest.skip("pgbouncer is not installed")
    user, password = f"auth_{secrets.token_hex(4)}", secrets.token_hex(8)
    login = make_conninfo(postgres_url, user=user, password=password)
    list(migrate_all(postgres_url, only="auth", environ={"TOLLBRIDGE_AUTH_DATABASE_URL": login}))
    owner = conninfo_to_dict(postgres_url)
    pooler = DeployedPgBouncer(
        program=program,
        owner_url=postgres_url,
        folder=tmp_path_factory.mktemp("pgbouncer"),
        port=pick_ports(1)[0],
        sessions=SESSIONS,
    )
    pooler.let_in({user: password, str(owner["user"]): str(owner["password"])})
    url = pooler.through(login)
    try:
        pooler.await_answer(url)
        yield url
    finally:
        pooler.stop()
        with psycopg.connect(postgres_url) as connection:
            connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(user)))


async def test_many_transactions_share_few_sessions_each_in_its_role_and_its_limits(behind: str) -> None:
    """Nothing that a service does needs the session that it had before; prepared statements neither."""
    pool = await db.open_pool(behind, role="auth", max_size=CLIENTS, pooler="pgbouncer")
    await db.wait_for_schema(pool, service="auth", timeout_s=20)
    seen: set[object] = set()

    async def work(*, alone: bool) -> None:
        for turn in range(TURNS):
            async with db.transaction(pool, alone=alone) as connection:
                cursor = await connection.execute(
                    "SELECT pg_backend_pid(), current_user, current_setting('statement_timeout'), %s::int", [turn]
                )
                row = await cursor.fetchone()
                assert row is not None
                assert row[1:] == ("tollbridge_auth", "5s", turn)
                seen.add(row[0])

    await pool.wait(20)
    pool.timeout = 20  # twelve clients wait for two sessions on a machine that has other things to do
    try:
        await asyncio.gather(*(work(alone=bool(number % 2)) for number in range(CLIENTS)))
    finally:
        await pool.close()
    assert 1 <= len(seen) <= SESSIONS


async def test_the_owners_credential_behind_it_is_refused_at_the_start(behind: str, postgres_url: str) -> None:
    """It would do, with all rights and without limits."""
    owner = conninfo_to_dict(postgres_url)
    url = make_conninfo(behind, user=owner["user"], password=owner["password"])
    pool = await db.open_pool(url, role="auth", pooler="pgbouncer")
    try:
        with pytest.raises(SettingsError, match="not as tollbridge_auth"):
            await db.wait_for_schema(pool, service="auth", timeout_s=20)
    finally:
        await pool.close()
