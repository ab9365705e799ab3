"""A whole gateway in which nobody is trusted by being inside: what a platform team switches on in production.

Every service shows a certificate of its own and is a user of its own at NATS over TLS, and logs in at PostgreSQL by
itself, through PgBouncer where that is installed. The files are those of `deploy`.
"""

import contextlib
import dataclasses
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from cli.migrate import migrate_all
from cli.up.ports import pick_ports
from cli.up.postgres import EmbeddedPostgres
from tests.conftest import RunningServer
from tests.faults.fleet import OWNERS, SERVICES, Fleet, Version, fleet
from tests.integration.deployed import DeployedNats, DeployedPgBouncer, find_pgbouncer, with_certificates
from tests.integration.running import Provider, provider
from tests.unit.chassis.authority import Authority

SESSIONS = 4
"""Of each login at PgBouncer: far fewer than the services' pools have places."""
EVERYBODY = "edge,tasks,auth,router,billing,cli"
"""Who may call: with certificates names are enough."""

More: TypeAlias = dict[str, dict[str, str]]


class Logins:
    """A database of its own at the session's server, and users of it for each service, in generations."""

    def __init__(self, server: EmbeddedPostgres, folder: Path) -> None:
        self._run = secrets.token_hex(4)
        self._maintenance, self.owner_url = server.url("postgres"), server.url(f"strict_{self._run}")
        self._made: dict[str, str] = {}
        self._folder = folder
        self.pooler: DeployedPgBouncer | None = None

    def __enter__(self) -> "Logins":
        self._execute("CREATE DATABASE {}", f"strict_{self._run}")
        if program := find_pgbouncer():
            self._folder.mkdir()
            port = pick_ports(1)[0]
            self.pooler = DeployedPgBouncer(program=program, owner_url=self.owner_url, folder=self._folder, port=port)
        return self

    def __exit__(self, *_: object) -> None:
        if self.pooler is not None:
            self.pooler.stop()
        self._execute("DROP DATABASE {} WITH (FORCE)", f"strict_{self._run}")
        for user in self._made:
            self._execute("DROP ROLE {}", user)

    def generation(self, number: int) -> dict[str, str]:
        """Each service's new URL, straight to PostgreSQL: by `tollbridge migrate`, and known to the pooler."""
        new = {service: (f"{service}_{self._run}_{number}", secrets.token_hex(8)) for service in OWNERS}
        urls = {who: make_conninfo(self.owner_url, user=user, password=word) for who, (user, word) in new.items()}
        environ = {f"TOLLBRIDGE_{who.upper()}_DATABASE_URL": url for who, url in urls.items()}
        list(migrate_all(self.owner_url, environ=environ))
        self._made |= dict(new.values())
        if self.pooler is not None:
            self.pooler.let_in(self._made)
        return urls

    def drop(self, urls: Mapping[str, str]) -> None:
        """These users are no more."""
        for url in urls.values():
            user = str(conninfo_to_dict(url)["user"])
            self._execute("DROP ROLE {}", user)
            del self._made[user]

    def told(self, service: str, urls: Mapping[str, str]) -> dict[str, str]:
        """What the service is told of its database: through PgBouncer where it is installed."""
        if service not in urls:
            return {"DATABASE_URL": ""}
        if self.pooler is None:
            return {"DATABASE_URL": urls[service]}
        return {"DATABASE_URL": self.pooler.through(urls[service]), "DATABASE_POOLER": "pgbouncer"}

    def _execute(self, statement: str, name: str) -> None:
        with psycopg.connect(self._maintenance, autocommit=True) as connection:
            connection.execute(sql.SQL(statement).format(sql.Identifier(name)))  # type: ignore[arg-type]  # a literal


@dataclasses.dataclass(kw_only=True)
class Strict:
    """The gateway, and what it stands on. What its services are told at their start may be changed."""

    fleet: Fleet
    provider: Provider
    nats: DeployedNats
    nats_process: RunningServer
    nats_log: Path
    certificates: Path
    authority: Authority
    database: Logins
    logins: dict[str, str]
    """Each service's own URL, straight to PostgreSQL."""
    more: More
    """Of a service, and under "" of all."""

    def told(self, service: str) -> dict[str, str]:
        """Its environment, without the prefix of the names."""
        return {
            **self.database.told(service, self.logins),
            "NATS_URL": "" if service == "router" else self.nats.url_of(service, scheme="tls"),
            "TLS_DIR": str(self.certificates / service),
            "SERVICE_TOKEN": service,
            "SERVICE_TOKENS": EVERYBODY,
            **self.more.get("", {}),
            **self.more.get(service, {}),
        }

    def environ(self, who: str) -> dict[str, str]:
        """What a command is told that runs as `who` beside the services, as a job of a cluster."""
        return {
            **os.environ,
            "TOLLBRIDGE_DATABASE_URL": self.database.owner_url,
            "TOLLBRIDGE_NATS_URL": self.nats.url_of("proof", scheme="tls"),
            "TOLLBRIDGE_TLS_DIR": str(self.certificates / who),
            "TOLLBRIDGE_URL": self.fleet.base_url,
            "TOLLBRIDGE_ADMIN_TOKEN": self.fleet.ready["admin_token"],
            "TOLLBRIDGE_BILLING_ADDRESSES": self.fleet.addresses("billing"),
        }


@contextlib.contextmanager
def strict_system(
    server: object, folder: Path, config: str, *versions: Version, more: More | None = None
) -> Iterator[Strict]:
    """All services of the first version run. `config` takes the provider's URL."""
    assert isinstance(server, EmbeddedPostgres)
    authority, certificates = Authority(), folder / "certificates"
    certificates.mkdir()
    for name in (*SERVICES, "cli", "proof", "stranger"):
        authority.folder(certificates / name, name)
    own = authority.folder(certificates / "nats", "localhost")
    nats = DeployedNats(directory=folder / "nats", port=pick_ports(1)[0], more=with_certificates(own))
    nats_process = RunningServer(server=nats, log_path=folder / "nats.log")
    with contextlib.ExitStack() as stack:
        nats_process.start()
        stack.callback(nats_process.stop)
        database = stack.enter_context(Logins(server, folder / "pgbouncer"))
        fake = stack.enter_context(provider(folder / "provider"))
        urls = {"database_url": database.owner_url, "nats_url": nats.url_of("proof", scheme="tls")}
        made = stack.enter_context(fleet(folder / "fleet", config % {"provider": fake.url}, *versions, **urls))
        strict = Strict(
            fleet=made,
            provider=fake,
            nats=nats,
            nats_process=nats_process,
            nats_log=folder / "nats.log",
            certificates=certificates,
            authority=authority,
            database=database,
            logins=database.generation(1),
            more={} if more is None else more,
        )
        made.told = strict.told
        for service in SERVICES:
            made.start_one(service, versions[0])
        made.await_ready()
        yield strict
