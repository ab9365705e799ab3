"""Own logins: each service's at PostgreSQL, made of the very URL that the service is given.

With one credential for all, the roles of the services guard against mistakes; with one for each, what is stolen from
one service opens one schema. A login may do nothing by itself: its sessions begin in the service's role and with the
service's limits, since behind a pooler nobody can ask for them at the start of a session.
"""

from collections.abc import Mapping

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from chassis import db

_EXISTING = """
    SELECT rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls OR EXISTS (
        SELECT FROM pg_auth_members JOIN pg_roles AS granted ON granted.oid = roleid
        WHERE member = found.oid AND granted.rolname <> %(role)s
    ) FROM pg_roles AS found WHERE rolname = %(user)s"""
_CONNECT_TIMEOUT_S = 10


class LoginRefused(Exception):
    """The login was not made; the message says why and quotes no URL."""


def variable(service: str) -> str:
    """Where the URL is given that the service logs in with."""
    return f"TOLLBRIDGE_{service.upper()}_DATABASE_URL"


def make_login(owner_url: str, *, service: str, url: str) -> str:
    """Makes the login of `url`, or gives it what it lacks; returns its name. Raises LoginRefused.

    A password that works is left as it is. Another user name makes a second login beside the first, so that services
    change over one by one.
    """
    user, password = _credentials(url, service=service)
    wanted = db.session_settings(service, **_limits(service))
    with psycopg.connect(owner_url, connect_timeout=_CONNECT_TIMEOUT_S) as connection:
        connection.execute("SELECT pg_advisory_xact_lock(hashtext('tollbridge logins'))")
        is_there = _check(connection, user, role=wanted["role"], service=service)
        name = sql.Identifier(user)
        if not is_there:
            connection.execute(sql.SQL("CREATE ROLE {} LOGIN NOINHERIT").format(name))
        if not is_there or not _works(owner_url, user, password):
            # What stands in PostgreSQL's log is not the password.
            secret = connection.pgconn.encrypt_password(password.encode(), user.encode(), b"scram-sha-256").decode()
            connection.execute(sql.SQL("ALTER ROLE {} LOGIN PASSWORD {}").format(name, sql.Literal(secret)))
        connection.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(wanted["role"]), name))
        for setting, value in wanted.items():
            change = sql.SQL("ALTER ROLE {} SET {} TO {}")
            connection.execute(change.format(name, sql.Identifier(setting), sql.Literal(value)))
    return user


def _credentials(url: str, *, service: str) -> tuple[str, str]:
    try:
        found = conninfo_to_dict(url)
    except psycopg.ProgrammingError:  # its words would quote the URL
        raise LoginRefused(f"{variable(service)} is no PostgreSQL URL") from None
    user, password = str(found.get("user") or ""), str(found.get("password") or "")
    if not (user and password):
        raise LoginRefused(f"{variable(service)} names no user or no password")
    return user, password


def _limits(service: str) -> Mapping[str, int]:
    if service != "router":
        return {}
    from services.router.store_desk import IDLE_MS

    return {"idle_ms": IDLE_MS}


def _check(connection: "psycopg.Connection[tuple[object, ...]]", user: str, *, role: str, service: str) -> bool:
    """Whether the login is there already. Raises LoginRefused when that user is more than this service's login."""
    row = connection.execute(_EXISTING, {"role": role, "user": user}).fetchone()
    if user in (role, connection.info.user) or (row is not None and row[0]):
        raise LoginRefused(f"{variable(service)}: {user} may do more than {service} should; name a user of its own")
    return row is not None


def _works(owner_url: str, user: str, password: str) -> bool:
    own = make_conninfo(owner_url, user=user, password=password, connect_timeout=_CONNECT_TIMEOUT_S)
    try:
        psycopg.connect(own).close()
    except psycopg.OperationalError:
        return False
    return True
