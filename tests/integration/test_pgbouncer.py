"""The pools behind a real PgBouncer that pools by transaction; skipped where none is installed."""

import asyncio
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from chassis import db
from chassis.settings import SettingsError
from cli.migrate import migrate_all
from cli.up.ports import pick_ports
from cli.up.unprivileged import find_disguise, hand_over

SESSIONS = 2
CLIENTS = 12
TURNS = 8
"""More than psycopg needs to make a statement a prepared one (5)."""

READY_WITHIN_S = 30.0
INI = Path(__file__).resolve().parents[2] / "deploy" / "pgbouncer" / "pgbouncer.ini"


@pytest.fixture(scope="module")
def behind(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of auth's own login at a PgBouncer with very few sessions."""
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if program is None:
        pytest.skip("pgbouncer is not installed")
    user, password = f"auth_{secrets.token_hex(4)}", secrets.token_hex(8)
    login = make_conninfo(postgres_url, user=user, password=password)
    list(migrate_all(postgres_url, only="auth", environ={"TOLLBRIDGE_AUTH_DATABASE_URL": login}))
    folder, port = tmp_path_factory.mktemp("pgbouncer"), pick_ports(1)[0]
    owner = conninfo_to_dict(postgres_url)
    users = folder / "users.txt"
    users.write_text(f'"{user}" "{password}"\n"{owner["user"]}" "{owner["password"]}"\n')
    (folder / "pgbouncer.ini").write_text(configured(owner, users=users, port=port))
    disguise = find_disguise(programs=[Path(program)], directory=folder)
    hand_over(folder, owner=disguise.owner)
    command = [*disguise.prefix, program, str(folder / "pgbouncer.ini")]
    url = make_conninfo(login, port=port)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        until_it_answers(url, process, folder / "log")
        yield url
    finally:
        process.kill()
        process.wait(timeout=20)
        with psycopg.connect(postgres_url) as connection:
            connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(user)))


def configured(owner: Mapping[str, object], *, users: Path, port: int) -> str:
    """The file that is deployed, for the test's server, with few sessions and time to wait for one of them."""
    text = INI.read_text()
    for old, new in (
        (
            "host=postgres port=5432 dbname=tollbridge",
            f"host={owner['host']} port={owner['port']} dbname={owner['dbname']}",
        ),
        ("\ntollbridge =", f"\n{owner['dbname']} ="),
        ("listen_addr = 0.0.0.0", "listen_addr = 127.0.0.1"),
        ("listen_port = 6432", f"listen_port = {port}"),
        ("auth_file = /etc/pgbouncer/userlist.txt", f"auth_file = {users}"),
        ("default_pool_size = 40", f"default_pool_size = {SESSIONS}"),
        ("query_wait_timeout = 1", "query_wait_timeout = 20"),
    ):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def until_it_answers(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Waits until a query comes through."""
    deadline = time.monotonic() + READY_WITHIN_S
    while True:
        try:
            with psycopg.connect(url, connect_timeout=5) as connection:
                connection.execute("SELECT 1")
        except psycopg.OperationalError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(log.read_text()) from None
            time.sleep(0.05)
        else:
            return


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
