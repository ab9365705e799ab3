"""A migrated, empty database on disk, made once; systems that tests start begin with a copy of it.

Making it anew takes two seconds of a core, and some thirty systems are started. `test_one_command` begins with nothing,
as an operator does.
"""

import functools
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from cli.up.ports import pick_ports
from cli.up.postgres import EmbeddedPostgres
from tests.conftest import RunningServer

ROOT = Path(__file__).resolve().parents[2]


def begin_with_database(data_dir: Path, *, kept_in: Path) -> None:
    """Puts a copy where `tollbridge up` keeps its database, before its first start; the first one is kept."""
    data_dir.mkdir(parents=True, mode=0o700)
    shutil.copytree(_template(kept_in), data_dir / "postgres")


@functools.cache
def _template(kept_in: Path) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="template-", dir=kept_in))
    server = EmbeddedPostgres(directory=folder / "postgres", port=pick_ports(1)[0], fsync=False)
    running = RunningServer(server=server, log_path=folder / "log")
    running.start()
    try:
        environ = {**os.environ, "TOLLBRIDGE_DATABASE_URL": server.url()}
        subprocess.run([sys.executable, "-m", "cli", "migrate"], cwd=ROOT, env=environ, check=True, timeout=120)
    finally:
        running.stop()
    return folder / "postgres"
