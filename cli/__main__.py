"""The `tollbridge` command. Each subcommand imports what it needs when it runs, so that `--help` is quick."""

import json
import os
import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated, NoReturn
from uuid import UUID

import typer

from cli import admin, reconcile

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Tollbridge: an LLM gateway that can sell.",
)
config_app = typer.Typer(no_args_is_help=True, help="The config file.")
spool_app = typer.Typer(no_args_is_help=True, help="What a lost replica left on its disk.")
ledger_app = typer.Typer(no_args_is_help=True, help="Proofs about the ledger.")
receipt_app = typer.Typer(no_args_is_help=True, help="Receipts of requests.")
app.add_typer(config_app, name="config")
app.add_typer(spool_app, name="spool")
app.add_typer(ledger_app, name="ledger")
app.add_typer(receipt_app, name="receipt")
app.add_typer(admin.app, name="admin")
ledger_app.command("reconcile")(reconcile.reconcile)

DataDirOption = Annotated[
    Path | None, typer.Option("--data-dir", help="The instance's data directory; default: .tollbridge.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="For scripts.")]

FAILED, NOT_POSSIBLE = 1, 2


@app.command()
def up(
    *,
    config: Annotated[Path | None, typer.Option(help="Default: tollbridge.yaml, else the built-in example.")] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where edge serves HTTP.")] = 8080,
    host: Annotated[str, typer.Option(help="The address that edge listens on.")] = "127.0.0.1",
    data_dir: Annotated[Path, typer.Option(help="Where everything is kept.")] = Path(".tollbridge"),
    replicas: Annotated[str, typer.Option(help="Such as edge=2,router=2.")] = "",
    nats_url: Annotated[str, typer.Option(help="Use this NATS, not an embedded one.")] = "",
    database_url: Annotated[str, typer.Option(help="Use this PostgreSQL, not an embedded one.")] = "",
) -> None:
    """Runs everything on this machine: NATS, PostgreSQL and the five services, supervised."""
    from cli.up.command import run_up
    from cli.up.options import UpOptions, WrongOption, choose_config, parse_replicas

    try:
        options = UpOptions(
            config=choose_config(config),
            host=host,
            port=port,
            data_dir=data_dir,
            replicas=parse_replicas(replicas),
            nats_url=nats_url,
            database_url=database_url,
        )
    except WrongOption as error:
        raise _exit(str(error), NOT_POSSIBLE) from error
    raise typer.Exit(run_up(options))


@app.command()
def serve(
    service: Annotated[str, typer.Argument(help="edge, auth, router, billing or tasks.")],
    check: Annotated[bool, typer.Option("--check", help="Validate settings and config, then exit.")] = False,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Processes that share edge's port.")] = 1,
    role: Annotated[str, typer.Option(help="tasks only: api, worker, or both when left out.")] = "",
) -> None:
    """Runs one service with settings from the environment: what containers do."""
    from cli.serve import WrongRequest, check_service, run_service

    try:
        if check:
            typer.echo(check_service(service))
            return
        run_service(service, workers=workers, role=role)
    except WrongRequest as error:
        raise _exit(str(error), NOT_POSSIBLE) from error


@app.command()
def migrate(service: Annotated[str, typer.Argument(help="Default: all five.")] = "") -> None:
    """Brings the database's schemas up to date; safe to repeat and to run twice at once.

    With TOLLBRIDGE_AUTH_DATABASE_URL and so on, each the URL that the service will use, it makes the services' logins.
    """
    from cli.migrate import MigrationRefused, migrate_all

    try:
        for line in migrate_all(os.environ.get("TOLLBRIDGE_DATABASE_URL", ""), only=service, environ=os.environ):
            typer.echo(line)
    except MigrationRefused as error:
        raise _exit(str(error), NOT_POSSIBLE) from error


@config_app.command("check")
def config_check(file: Path, as_json: JsonOption = False) -> None:
    """Validates a config file as all services read it; errors name file, line and key."""
    import msgspec

    from chassis.config import ConfigError
    from cli.config_check import check

    try:
        found = check(file, environ=os.environ)
    except (ConfigError, OSError) as error:
        raise _exit(str(error), FAILED) from error
    if as_json:
        shown = {key: value for key, value in msgspec.to_builtins(found).items() if key != "admin_token"}
        typer.echo(json.dumps(shown))
        return
    typer.echo(f"{file}: valid. {found.providers} providers, {found.models} models, {found.plans} plans.")


@spool_app.command("replay")
def spool_replay(directory: Path, data_dir: DataDirOption = None) -> None:
    """Hands billing what lost replicas left in DIRECTORY: the finished is charged, the unfinished released."""
    from cli.spool import replay

    raise typer.Exit(replay(directory, data_dir=data_dir))


@app.command()
def status(data_dir: DataDirOption = None, as_json: JsonOption = False) -> None:
    """Shows services, ports, readiness, lag and spools of the running instance."""
    from cli.running import NotRunning, find_instance
    from cli.status import show_status

    try:
        instance = find_instance(data_dir)
    except NotRunning as error:
        raise _exit(str(error), NOT_POSSIBLE) from error
    show_status(instance, as_json=as_json)


@app.command()
def restart(data_dir: DataDirOption = None) -> None:
    """Restarts the services of a running `tollbridge up` one after another; no request is refused meanwhile."""
    from cli.running import NotRunning, ask_for_restart, find_instance

    try:
        pid = ask_for_restart(find_instance(data_dir))
    except NotRunning as error:
        raise _exit(str(error), NOT_POSSIBLE) from error
    typer.echo(f"asked the instance of pid {pid}, which says when it is done")


@ledger_app.command("verify")
def ledger_verify(
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
    seal: Annotated[str, typer.Option("--seal", help="A seal that was kept elsewhere: it must still be there.")] = "",
) -> None:
    """Proves the ledger: status 0 when all adds up, 1 on any difference, 2 when it can't be read."""
    from cli.ledger import verify

    raise typer.Exit(verify(data_dir, as_json=as_json, kept_seal=seal))


@ledger_app.command("seal")
def ledger_seal(data_dir: DataDirOption = None) -> None:
    """Prints the newest seal of the ledger's past: keep it elsewhere, and give it to `ledger verify --seal`."""
    from cli.ledger import newest_seal

    raise typer.Exit(newest_seal(data_dir))


@ledger_app.command("replay")
def ledger_replay(
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
    lost: Annotated[
        bool, typer.Option("--lost", help="After a restore: what only LEDGER has, without charges.")
    ] = False,
) -> None:
    """Rebuilds the ledger from the streams USAGE and LEDGER: status 0 when it is the live one, 1 on any difference."""
    from cli.replay import replay, show_lost

    raise typer.Exit((show_lost if lost else replay)(data_dir, as_json=as_json))


@ledger_app.command("prove")
def ledger_prove(
    daily: Annotated[
        datetime | None, typer.Option(formats=["%H:%M"], help="Now and each day at this time (UTC), for ever.")
    ] = None,
    data_dir: DataDirOption = None,
) -> None:
    """Verifies and replays the ledger and keeps the results for alerts: status 0, 1 on a difference, 2 unreadable."""
    from cli.prove import prove, prove_daily

    if daily:
        prove_daily(data_dir, daily.time())
    raise typer.Exit(prove(data_dir))


@ledger_app.command("dead-letters")
def ledger_dead_letters(
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
    resolved_too: Annotated[bool, typer.Option("--all", help="Also those that were resolved.")] = False,
) -> None:
    """Lists the usage events that billing set aside; each keeps its hold until it is resolved."""
    from cli.letters import show_all

    raise typer.Exit(show_all(data_dir, resolved_too=resolved_too, as_json=as_json))


@ledger_app.command("resolve")
def ledger_resolve(
    letter_id: Annotated[UUID, typer.Argument(help="As `ledger dead-letters` shows it.")],
    *,
    charge: Annotated[str, typer.Option("--charge", help="Charge this many USD instead.")] = "",
    void: Annotated[bool, typer.Option("--void", help="Charge nothing.")] = False,
    drop: Annotated[bool, typer.Option("--drop", help="Apply nothing: the right event came or will come.")] = False,
    because: Annotated[str, typer.Option("--because", help="For the books.")] = "",
    by: Annotated[str, typer.Option("--by", envvar="USER", help="Who decides.")] = "operator",
    data_dir: DataDirOption = None,
) -> None:
    """Resolves one event that billing set aside and lets go of its hold; without a choice it is only shown."""
    from cli.letters import resolve

    chosen = [name for name, given in (("charge", charge), ("void", void), ("drop", drop)) if given]
    if len(chosen) > 1:
        raise _exit("give one of --charge, --void and --drop", NOT_POSSIBLE)
    how = chosen[0] if chosen else ""
    raise typer.Exit(resolve(data_dir, letter_id, how=how, charge_usd=charge, by=by, because=because))


@ledger_app.command("unmatched")
def ledger_unmatched(data_dir: DataDirOption = None, as_json: JsonOption = False) -> None:
    """Lists USDT that arrived and fits no payment."""
    from cli.payments import show_unmatched

    raise typer.Exit(show_unmatched(data_dir, as_json=as_json))


@ledger_app.command("assign")
def ledger_assign(
    transaction_id: Annotated[str, typer.Argument(help="As `ledger unmatched` shows it.")],
    customer_id: Annotated[str, typer.Argument(help="Whose money it is.")],
    *,
    position: Annotated[int, typer.Option(help="Which transfer of the transaction.")] = 0,
    data_dir: DataDirOption = None,
) -> None:
    """Credits USDT that fits no payment to a customer, once."""
    from cli.payments import assign

    raise typer.Exit(assign(data_dir, transaction_id, position, customer_id=customer_id))


@receipt_app.command("verify")
def receipt_verify(
    file: Annotated[str, typer.Argument(help="A receipt as `GET /v1/requests/{id}` gives it; - is standard input.")],
    keys: Annotated[str, typer.Option("--keys", help="File or URL; default: those of the running instance.")] = "",
    data_dir: DataDirOption = None,
) -> None:
    """Checks signature, price, charge and transfers: status 0 when all is right, 1 when not, 2 when not checked."""
    from cli.receipt import verify

    raise typer.Exit(verify(file, keys=keys, data_dir=data_dir))


def _exit(message: str, status: int) -> typer.Exit:
    typer.echo(message, err=True)
    return typer.Exit(status)


def main() -> NoReturn:
    """Runs the command. Settings that can't be used are named, whichever command came upon them."""
    from chassis.settings import SettingsError

    try:
        app()
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(NOT_POSSIBLE)
    sys.exit(0)


if __name__ == "__main__":
    main()
