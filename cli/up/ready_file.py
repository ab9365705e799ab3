"""`ready.json`: how scripts and other commands find a running instance. There exactly while it is ready."""

from collections.abc import Iterable

from cli.up.data_dir import DataDir, write_private_json
from cli.up.instance_secrets import InstanceSecrets
from cli.up.options import UpOptions
from cli.up.supervised import Supervised


def content(
    *,
    options: UpOptions,
    secrets: InstanceSecrets,
    nats_url: str,
    database_url: str,
    processes: Iterable[Supervised],
) -> dict[str, object]:
    """Returns what `ready.json` says."""
    return {
        "base_url": options.base_url,
        "admin_token": secrets.admin_token,
        "demo_key": secrets.demo_key,
        "demo_customer_id": secrets.default_customer_id,
        "console_url": f"{options.base_url}/console",
        "nats_url": nats_url,
        "database_url": database_url,
        "services": [_row(each) for each in processes],
    }


def write(data_dir: DataDir, what: dict[str, object]) -> None:
    """Replaces the file at once, readable by its owner only."""
    write_private_json(data_dir.ready, what)


def remove(data_dir: DataDir) -> None:
    """The instance is no longer ready."""
    data_dir.ready.unlink(missing_ok=True)


def _row(process: Supervised) -> dict[str, object]:
    program = process.program
    replica = {} if program.replica is None else {"replica": program.replica}
    return {"name": program.name, **replica, "pid": process.pid, **program.addresses}
