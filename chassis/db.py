"""PostgreSQL for one service: its pool, its transactions and the schema that it waits for.

Each service owns one schema and acts as its own NOLOGIN role, `tollbridge_<service>`, whoever logs in; behind PgBouncer
its login takes that role by itself. Who migrates owns the tables (`cli/schema.py`). Nothing waits for ever: a
connection, a statement and a place in the pool each have a limit, after which the caller is told UNAVAILABLE.
"""

import ast
import asyncio
import importlib.util
import random
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias, TypeVar

import psycopg
from psycopg import errors
from psycopg.conninfo import make_conninfo
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout

from chassis.errors import Code, TollbridgeError
from chassis.settings import ServiceSettings, SettingsError

Connection: TypeAlias = psycopg.AsyncConnection[TupleRow]
Pool: TypeAlias = AsyncConnectionPool[Connection]
Pooler: TypeAlias = Literal["", "pgbouncer"]
T = TypeVar("T")

VERSION_TABLE = "alembic_version"
STATEMENT_TIMEOUT_MS = 5_000
IDLE_IN_TRANSACTION_TIMEOUT_MS = 15_000
# A caller must have its 503 within a second when the database is gone, so the wait for a connection is shorter.
POOL_WAIT_S = 0.9
CONNECT_TIMEOUT_S = 3
KEEPALIVE_S = 5
TCP_USER_TIMEOUT_MS = 10_000
# The pool doubles its pauses between attempts until this time is over, then begins anew at the next call.
RECONNECT_TIMEOUT_S = 2.0
SCHEMA_POLL_S = 0.1

_NAME = re.compile(r"[a-z][a-z_]{0,30}")
_SESSION = b"""SELECT current_user, array_agg(name) FILTER (WHERE setting = '0') FROM pg_settings
    WHERE name IN ('statement_timeout', 'idle_in_transaction_session_timeout')"""
_RETRIABLE = (errors.SerializationFailure, errors.DeadlockDetected)
_NOT_MIGRATED = (errors.UndefinedTable, errors.InvalidSchemaName, errors.InsufficientPrivilege)
_UNAVAILABLE = (
    psycopg.OperationalError,  # also statement timeouts, shutdown, a full disk, too many connections
    psycopg.InterfaceError,  # the connection was closed under us
    errors.ReadOnlySqlTransaction,  # a fail-over left us with a standby
    errors.IdleInTransactionSessionTimeout,
    PoolTimeout,
    PoolClosed,
    TimeoutError,
    ConnectionError,
)


async def open_pool(
    url: str,
    *,
    role: str,
    min_size: int = 1,
    max_size: int = 8,
    idle_ms: int = IDLE_IN_TRANSACTION_TIMEOUT_MS,
    pooler: Pooler = "",
) -> Pool:
    """A pool whose connections act as `tollbridge_<role>`. A transaction that stands still for `idle_ms` is ended.

    Behind a `pooler` role and limits are those of the login (`tollbridge migrate` makes such logins): it gives each
    transaction another session, so it lets nobody set one up or keep a prepared statement in it. `wait_for_schema`
    checks that they are there.

    Returns at once, also when the database is not there yet: the first call then fails as UNAVAILABLE and a later one
    finds it. Close it with `await pool.close()`. Raises SettingsError when `url` is none, which quotes nothing of it.
    """
    pool: Pool = AsyncConnectionPool(
        _conninfo(url, role=role, idle_ms=idle_ms, pooler=pooler),
        kwargs={"prepare_threshold": None} if pooler else None,
        min_size=min_size,
        max_size=max_size,
        timeout=POOL_WAIT_S,
        reconnect_timeout=RECONNECT_TIMEOUT_S,
        name=role,
        open=False,
    )
    await pool.open(wait=False)
    return pool


async def service_pool(own: ServiceSettings, *, role: str, idle_ms: int = IDLE_IN_TRANSACTION_TIMEOUT_MS) -> Pool:
    """The pool of a service's process, as its settings want it."""
    return await open_pool(
        own.database_url, role=role, max_size=own.database_connections, idle_ms=idle_ms, pooler=own.database_pooler
    )


@asynccontextmanager
async def transaction(pool: Pool, *, alone: bool = False) -> AsyncIterator[Connection]:
    """One transaction: committed at the end of the block, rolled back when the block raises.

    `alone` is for a block of a single statement: it is a transaction by itself, one round trip instead of three, and
    who stands still after it was sent leaves no lock behind.

    Raises TollbridgeError(UNAVAILABLE) on connection trouble and timeouts. When it comes from the commit itself, the
    work may have been done all the same: every caller is idempotent by an id. Serialization failures and deadlocks are
    left as they are, for `in_transaction`.
    """
    try:
        async with pool.connection() as connection:
            if alone:
                await connection.set_autocommit(True)
            try:
                yield connection
            finally:
                if alone:
                    await _end_autocommit(connection)
    except _RETRIABLE:
        raise
    except _UNAVAILABLE as error:
        raise _unavailable() from error


async def _end_autocommit(connection: Connection) -> None:
    """The next user gets the connection as it was; one that isn't at rest is closed, and the pool makes another."""
    if connection.info.transaction_status is TransactionStatus.IDLE:
        await connection.set_autocommit(False)
    else:
        await connection.close()


async def in_transaction(
    pool: Pool, work: Callable[[Connection], Awaitable[T]], *, attempts: int = 3, alone: bool = False
) -> T:
    """Runs `work` in a transaction, again from its beginning after a deadlock or a serialization failure.

    `work` may run up to `attempts` times, so it changes nothing outside the database.
    """
    for attempt in range(1, attempts + 1):
        try:
            async with transaction(pool, alone=alone) as connection:
                return await work(connection)
        except _RETRIABLE as error:
            if attempt == attempts:
                raise _unavailable() from error
        await asyncio.sleep(random.uniform(0.002, 0.02) * attempt)
    raise ValueError("attempts must be at least 1")


def is_unavailable(error: BaseException) -> bool:
    """True for trouble that passes by itself (connection, timeout, deadlock): worth a nak and another try."""
    if isinstance(error, TollbridgeError):
        return error.code is Code.UNAVAILABLE
    return isinstance(error, _UNAVAILABLE)


async def wait_for_schema(pool: Pool, *, service: str, timeout_s: float) -> None:
    """Returns when the service's schema has the version that this code needs, or a newer one.

    It asks with connections of its own, because until the migration the role doesn't exist and the pool's attempts
    would back off. Raises TollbridgeError(UNAVAILABLE) after `timeout_s`, and SettingsError when who is logged in does
    not act as the service's role within limits: that could do too much, or wait for ever.
    """
    revisions = revisions_in(versions_folder(service))
    deadline = time.monotonic() + timeout_s
    while True:
        seen = await _look(str(pool.conninfo), service=service)
        is_late = time.monotonic() >= deadline
        is_ready = _suffices(seen.version, revisions)
        if seen.problem and (is_ready or is_late):
            raise SettingsError([f"TOLLBRIDGE_DATABASE_URL: {seen.problem}"])
        if is_ready:
            return
        if is_late:
            found = f"no schema ({seen.trouble})" if seen.version is None else f"version {seen.version}"
            message = f"schema {service} is not ready after {timeout_s:g} s: found {found}, need {_head(revisions)}"
            raise TollbridgeError(Code.UNAVAILABLE, message, retry_after_s=1)
        await asyncio.sleep(SCHEMA_POLL_S)


async def is_migrated(url: str, *, service: str) -> bool:
    """Whether the service's schema is there as this code needs it, or newer."""
    revisions = revisions_in(versions_folder(service))
    return _suffices((await _look(url, service=service)).version, revisions)


def _suffices(version: str | None, revisions: Mapping[str, str | None]) -> bool:
    return version is not None and (version == _head(revisions) or version not in revisions)


class _Seen(NamedTuple):
    """The schema's revision (None: there is none, or no way to ask), why not, and what is wrong with the session."""

    version: str | None = None
    trouble: str = "it has no version"
    problem: str = ""


async def _look(conninfo: str, *, service: str) -> _Seen:
    problem = ""
    try:
        async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as connection:
            row = await (await connection.execute(_SESSION)).fetchone()
            assert row is not None  # an aggregate is one row
            problem = _problem(str(row[0]), row[1], role=role_of(service))
            cursor = await connection.execute(f"SELECT version_num FROM {service}.{VERSION_TABLE}".encode())
            row = await cursor.fetchone()
    except (psycopg.OperationalError, *_NOT_MIGRATED) as error:
        return _Seen(trouble=str(error).partition("\n")[0], problem=problem)
    return _Seen(version=str(row[0]) if row else None, problem=problem)


def _problem(user: str, unlimited: list[str] | None, *, role: str) -> str:
    if user != role:
        return f"its login acts as {user}, not as {role}; give it one that `tollbridge migrate` has made"
    if unlimited:
        return f"its login has no {' and no '.join(unlimited)}; set them with ALTER ROLE"
    return ""


def _conninfo(url: str, *, role: str, idle_ms: int, pooler: Pooler) -> str:
    options = " ".join(f"-c {name}={value}" for name, value in session_settings(role, idle_ms=idle_ms).items())
    try:
        return make_conninfo(
            url,
            application_name=f"tollbridge-{role}",
            connect_timeout=CONNECT_TIMEOUT_S,
            keepalives_idle=KEEPALIVE_S,
            tcp_user_timeout=TCP_USER_TIMEOUT_MS,
            **({} if pooler else {"options": options}),
        )
    except psycopg.ProgrammingError:  # its words would quote the URL, password included
        raise SettingsError(["TOLLBRIDGE_DATABASE_URL is no PostgreSQL URL"]) from None


def session_settings(service: str, *, idle_ms: int = IDLE_IN_TRANSACTION_TIMEOUT_MS) -> dict[str, str]:
    """What each session of the service is set to, by the connection or by its login."""
    return {
        "role": role_of(service),
        "statement_timeout": str(STATEMENT_TIMEOUT_MS),
        "idle_in_transaction_session_timeout": str(idle_ms),
    }


def versions_folder(service: str) -> Path:
    """`services/<service>/migrations/versions`, found without importing the service."""
    role_of(service)
    spec = importlib.util.find_spec(f"services.{service}")
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f"there is no service {service}")
    return Path(next(iter(spec.submodule_search_locations))) / "migrations" / "versions"


def revisions_in(folder: Path) -> dict[str, str | None]:
    """Each revision and the one before it, read from the files' text."""
    found: dict[str, str | None] = {}
    for path in sorted(folder.glob("*.py")):
        names = _constants(path)
        revision = names.get("revision")
        if revision is not None:
            found[revision] = names.get("down_revision")
    return found


def _constants(path: Path) -> dict[str, str | None]:
    values: dict[str, str | None] = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign):
            target: ast.expr = node.targets[0]
            value: ast.expr | None = node.value
        elif isinstance(node, ast.AnnAssign):
            target, value = node.target, node.value
        else:
            continue
        if isinstance(target, ast.Name) and isinstance(value, ast.Constant):
            values[target.id] = value.value if isinstance(value.value, str) else None
    return values


def _head(revisions: Mapping[str, str | None]) -> str:
    heads = sorted(set(revisions) - set(revisions.values()))
    if len(heads) != 1:
        raise ValueError(f"migrations must end in one head, found {heads}")
    return heads[0]


def role_of(service: str) -> str:
    """The role's name; the pattern keeps every name here safe to stand in SQL."""
    if not _NAME.fullmatch(service):
        raise ValueError(f"{service!r} is no name of a service")
    return f"tollbridge_{service}"


def _unavailable() -> TollbridgeError:
    return TollbridgeError(Code.UNAVAILABLE, "the database can't be reached", retry_after_s=1)
