"""One running instance: starts everything, keeps it running, stops it in order.

Start: NATS and PostgreSQL side by side, then migrations, then the five services side by side, then (the first
time) the demo customer. Stop: edge first, so that running requests end well while all they need still runs;
then tasks, then the owners, then the servers. Nothing is left behind: whatever way `run` ends, each process
it started has ended.
"""

import asyncio
import contextlib
import dataclasses
import functools
import json
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import TypeAlias, TypeVar

from cli.up import built_in, local_models, orphans, ready_file
from cli.up.data_dir import DataDir, write_private
from cli.up.helper_process import run_helper
from cli.up.instance_secrets import InstanceSecrets, load_or_make, remember_demo_key
from cli.up.logs import trim_for_ever
from cli.up.nats import EmbeddedNats
from cli.up.options import BUILT_IN_CONFIG, UpOptions, WrongOption, check_port
from cli.up.ports import pick_ports
from cli.up.postgres import FAST_SHUTDOWN, EmbeddedPostgres
from cli.up.rolling import Post, restart_all
from cli.up.supervised import Program, Supervised
from cli.up.topology import (
    CONFIG_GATE,
    OWNERS,
    Seat,
    base_environ,
    cli_environ,
    config_program,
    seats,
    service_program,
    shared_environ,
)

READY_WITHIN_S = 90.0
FIRST_START_WITHIN_S = 180.0
EDGE_PATIENCE_S = 40.0
SERVICE_PATIENCE_S = 15.0
SERVER_PATIENCE_S = 20.0
PORT_FREE_WITHIN_S = 3.0
"""The kernel closes the sockets of a killed process a moment after nobody sees that process any more."""
PORT_POLL_S = 0.05

T = TypeVar("T")
Findings: TypeAlias = dict[str, str]
"""What the config file says that a supervisor must know (`cli.config_check.Findings`)."""


class Instance:
    """Everything of one `tollbridge up`. Use once: `run`."""

    def __init__(self, *, options: UpOptions, announce: Callable[[str], None]) -> None:
        self._options = options
        self._announce = announce
        self._data_dir = DataDir(options.data_dir)
        self._supervised: list[Supervised] = []
        self._hidden: list[Supervised] = []
        self._posts: list[Post] = []
        self._program: Callable[[Seat], Program] | None = None
        self._migrate: Callable[[], Coroutine[object, object, str]]
        self._tasks: list[asyncio.Task[None]] = []
        self._ready: Callable[[], dict[str, object]] | None = None
        self._findings: Findings = {}
        self._former_was_killed = False
        self._ports = contextlib.ExitStack()

    async def run(
        self,
        *,
        stop: asyncio.Event,
        hurry: asyncio.Event,
        renew: asyncio.Event,
        when_ready: Callable[[dict[str, object], Findings], None],
    ) -> None:
        """Runs until `stop` is set, then stops all; `hurry` cuts the patience of that short. Each time that `renew` is
        set, the services are restarted one after another.

        Raises StartFailed, HelperFailed, DataDirError, WrongOption, after stopping what had been started.
        """
        self._data_dir.acquire()
        try:
            await self._clean_up()  # first: what a killed instance left may hold the very port
            await self._check_port()
            await _unless(stop, self._start())
            if not stop.is_set() and self._ready is not None:
                when_ready(self._ready(), self._findings)
                await _unless(stop, self._restart_when(renew))
        finally:
            await self._stop(hurry)
            self._ports.close()
            self._data_dir.release()

    async def _restart_when(self, renew: asyncio.Event) -> None:
        while self._program is not None:
            await renew.wait()
            renew.clear()  # who asks from now on wants what will be there then
            self._announce("restarting the services one after another")
            await restart_all(
                self._posts, house=self, migrate=self._migrate, program=self._program, announce=self._announce
            )

    async def _check_port(self) -> None:
        """Raises WrongOption when the port is taken, and after a killed instance also stays so for a moment."""
        deadline = time.monotonic() + (PORT_FREE_WITHIN_S if self._former_was_killed else 0)
        while True:
            try:
                return check_port(self._options)
            except WrongOption:
                if time.monotonic() >= deadline:
                    raise
            await asyncio.sleep(PORT_POLL_S)

    async def _clean_up(self) -> None:
        ready_file.remove(self._data_dir)
        self._former_was_killed = self._data_dir.processes.exists()
        ended = await asyncio.to_thread(orphans.end_recorded, self._data_dir)
        if ended:
            self._announce(f"ended {len(ended)} processes that a killed instance had left")

    async def _start(self) -> None:
        began = time.monotonic()
        environ = self._with_local_models(base_environ())
        secrets = load_or_make(self._data_dir, environ=environ)
        if self._options.config == BUILT_IN_CONFIG:
            await self._offer(environ)
        checking = {**environ, "TOLLBRIDGE_ADMIN_TOKEN": secrets.admin_token}
        examining = asyncio.create_task(self._examine_config(checking))
        try:
            nats_url, database_url = await _or_failure_of(examining, self._start_servers())
            self._findings = await examining  # the services start on the file that has passed
            placed = seats(self._options, kept=self._ports)
            shared = shared_environ(
                config=self._data_dir.checked_config,
                secrets=secrets,
                placed=placed,
                nats_url=nats_url,
                database_url=database_url,
                environ=environ,
            )
            helper_environ = cli_environ(shared, secrets)
            await self._start_services(placed, shared, secrets, is_first=not secrets.demo_key)
        finally:
            examining.cancel()
        gate = self._add(config_program(self._options, environ=checking, data_dir=self._data_dir))
        if not secrets.demo_key:
            key = await self._make_demo(helper_environ, plan=self._findings["demo_plan"])
            secrets = dataclasses.replace(secrets, demo_key=key)
        secrets = dataclasses.replace(secrets, admin_token=self._findings["admin_token"] or secrets.admin_token)
        await gate.wait_ready(timeout_s=READY_WITHIN_S)
        self._publish(secrets, nats_url, database_url)
        self._tasks.append(asyncio.create_task(trim_for_ever(self._data_dir.root / "logs")))
        self._announce(f"everything ready after {time.monotonic() - began:.1f} s")

    def _with_local_models(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Starts the local models where they are installed; returns the environment that says where they are.

        Whoever says so already, or with an empty variable that they are not wanted, has none started.
        """
        if local_models.URL_VARIABLE in environ or not local_models.can_run():
            return dict(environ)
        (port,) = pick_ports(1, kept=self._ports)
        self._add(local_models.program(port=port, environ=environ, data_dir=self._data_dir))
        return {**environ, local_models.URL_VARIABLE: local_models.url(port)}

    async def _offer(self, environ: Mapping[str, str]) -> None:
        """Replaces the built-in config by one with every provider that the environment has a key for."""
        names = built_in.offered(environ)
        if environ.get(local_models.URL_VARIABLE):
            names += local_models.offers(is_ours=local_models.URL_VARIABLE not in base_environ())
        if not names:
            return
        base = BUILT_IN_CONFIG.read_text()
        text = await asyncio.to_thread(built_in.compose, base, names, environ=environ)
        write_private(self._data_dir.config, text)
        self._options = dataclasses.replace(self._options, config=self._data_dir.config)
        self._announce(f"offers the models of {', '.join(names)}; config {self._data_dir.config}")

    async def _examine_config(self, environ: Mapping[str, str]) -> Findings:
        paths = str(self._options.config), str(self._data_dir.checked_config)
        output = await run_helper("cli.up.examine", *paths, environ=environ, timeout_s=READY_WITHIN_S)
        found: Findings = json.loads(output)
        return found

    async def _start_servers(self) -> tuple[str, str]:
        options, starting = self._options, []
        nats_url, database_url = options.nats_url, options.database_url
        nats_port, postgres_port = pick_ports(2, kept=self._ports)
        if not nats_url:
            nats = EmbeddedNats(directory=self._data_dir.nats, port=nats_port)
            starting.append(self._add(_nats_program(nats, self._data_dir)))
        if not database_url:
            postgres = EmbeddedPostgres(directory=self._data_dir.postgres, port=postgres_port)
            starting.append(self._add(_postgres_program(postgres, self._data_dir)))
        await _all(server.wait_ready(timeout_s=FIRST_START_WITHIN_S) for server in starting)
        return nats_url or nats.url, database_url or postgres.url()

    async def _start_services(
        self, placed: list[Seat], shared: dict[str, str], secrets: InstanceSecrets, *, is_first: bool
    ) -> None:
        """Migrates and starts; later, with little to migrate, at the same time: the services wait for their schemas."""
        environ = cli_environ(shared, secrets)
        self._migrate = functools.partial(run_helper, "cli.migrate", environ=environ, timeout_s=FIRST_START_WITHIN_S)
        migrating = self._migrate()
        if is_first:
            await migrating
        self._program = functools.partial(service_program, shared=shared, secrets=secrets, data_dir=self._data_dir)
        self._posts = [Post(seat=seat, holder=self._add(self._program(seat))) for seat in placed]
        waits: list[Coroutine[object, object, object]] = [
            post.holder.wait_ready(timeout_s=READY_WITHIN_S) for post in self._posts
        ]
        await _all(waits if is_first else [migrating, *waits])

    async def _make_demo(self, environ: dict[str, str], *, plan: str) -> str:
        output = await run_helper("cli.up.demo", "--plan", plan, environ=environ, timeout_s=READY_WITHIN_S)
        key = str(json.loads(output)["demo_key"])
        remember_demo_key(self._data_dir, key)
        return key

    def _publish(self, secrets: InstanceSecrets, nats_url: str, database_url: str) -> None:
        def content() -> dict[str, object]:
            services_first = sorted(
                (each for each in self._supervised if each not in self._hidden),
                key=lambda each: (each.program.replica is None, each.program.name != "edge"),
            )
            return ready_file.content(
                options=self._options,
                secrets=secrets,
                nats_url=nats_url,
                database_url=database_url,
                processes=services_first,
            )

        self._ready = content
        ready_file.write(self._data_dir, content())

    def _add(self, program: Program) -> Supervised:
        supervised = Supervised(program=program, on_change=self._changed, announce=self._announce)
        self._supervised.append(supervised)
        self._tasks.append(asyncio.create_task(supervised.run(), name=program.label))
        return supervised

    def admit(self, program: Program) -> Supervised:
        """Starts a process that `ready.json` does not show yet."""
        supervised = self._add(program)
        self._hidden.append(supervised)
        return supervised

    def show(self, successor: Supervised, *, instead_of: Supervised) -> None:
        """From now on `ready.json` shows the one in the place of the other, who still runs."""
        self._supervised.remove(successor)
        self._supervised.insert(self._supervised.index(instead_of), successor)
        self._hidden.remove(successor)
        self._hidden.append(instead_of)
        self._changed()

    def dismiss(self, one: Supervised) -> None:
        """It has ended for good."""
        self._hidden.remove(one)
        self._supervised.remove(one)
        self._tasks = [task for task in self._tasks if not task.done()]
        self._changed()

    def _changed(self) -> None:
        alive = [each.identity for each in self._supervised if each.program.name != "postgres" and each.identity]
        orphans.record(self._data_dir, alive)
        if self._ready is not None:
            ready_file.write(self._data_dir, self._ready())

    async def _stop(self, hurry: asyncio.Event) -> None:
        self._ready = None
        ready_file.remove(self._data_dir)
        steps = (
            (("edge",), EDGE_PATIENCE_S),
            (("tasks", local_models.NAME, CONFIG_GATE), SERVICE_PATIENCE_S),
            (OWNERS, SERVICE_PATIENCE_S),
            (("nats", "postgres"), SERVER_PATIENCE_S),
        )
        never = asyncio.Event()  # the servers stop within moments, and a database is not killed for impatience
        for names, patience_s in steps:
            ending = [each for each in self._supervised if each.program.name in names]
            haste = never if "postgres" in names else hurry
            await _all(each.stop(patience_s=patience_s, hurry=haste) for each in ending)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._data_dir.processes.unlink(missing_ok=True)


async def _all(waits: Iterable[Coroutine[object, object, object]]) -> None:
    """Waits for all; the first failure cancels the others and is raised as itself."""
    tasks = [asyncio.create_task(wait) for wait in waits]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


async def _or_failure_of(other: asyncio.Task[Findings], work: Coroutine[object, object, T]) -> T:
    """Returns what `work` does; when `other` fails before, cancels `work` and raises that instead."""
    working = asyncio.create_task(work)
    try:
        await asyncio.wait((working, other), return_when=asyncio.FIRST_COMPLETED)
        if other.done():
            other.result()
        return await working
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)


def _nats_program(server: EmbeddedNats, data_dir: DataDir) -> Program:
    async def is_ready() -> bool:
        return await asyncio.to_thread(server.is_ready)

    return Program(
        name="nats",
        replica=None,
        prepare=server.prepare,
        environ=base_environ(),
        log_path=data_dir.log("nats"),
        is_ready=is_ready,
    )


def _postgres_program(server: EmbeddedPostgres, data_dir: DataDir) -> Program:
    async def is_ready() -> bool:
        return server.is_ready()

    return Program(
        name="postgres",
        replica=None,
        prepare=server.prepare,
        environ=base_environ(),
        log_path=data_dir.log("postgres"),
        is_ready=is_ready,
        stop_signal=FAST_SHUTDOWN,
    )


async def _unless(stop: asyncio.Event, work: Coroutine[object, object, None]) -> None:
    """Runs `work` to its end, or cancels it when `stop` is set before."""
    working, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
        if not stop.is_set():
            await working
    finally:
        for task in (working, stopping):
            task.cancel()
        await asyncio.gather(working, stopping, return_exceptions=True)
