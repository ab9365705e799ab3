"""The process of local models (`upstream.local`), which runs where the extra `local-models` or espeak-ng is installed.

Nobody waits for it: it loads a model when that is first asked for, and all else works without it.
"""

import signal
import sys
from collections.abc import Mapping

from cli.up.data_dir import DataDir
from cli.up.probe import http_is_ready
from cli.up.process import SAFE_PATH, tethered
from cli.up.supervised import Program
from upstream.local.installed import espeak_path, has_piper, is_installed

NAME = "local-models"
URL_VARIABLE = "TOLLBRIDGE_LOCAL_MODELS_URL"


def url(port: int) -> str:
    """Where router is told that they are."""
    return f"http://127.0.0.1:{port}/v1"


def can_run() -> bool:
    """Whether there is anything for it to do."""
    return is_installed() or espeak_path() is not None


def offers(*, is_ours: bool) -> list[str]:
    """The offers of what it has; of one that isn't ours, what comes with the extra."""
    speech = [("local-piper", has_piper()), ("local-espeak", espeak_path() is not None)] if is_ours else []
    found = [("local", True), ("local-models", is_installed() or not is_ours), *speech]
    return [name for name, is_there in found if is_there]


def program(*, port: int, environ: Mapping[str, str], data_dir: DataDir) -> Program:
    """Describes the process. It is told nothing that it doesn't need, above all no secret."""
    address = f"127.0.0.1:{port}"
    needed = (
        "PATH",
        "HOME",
        "LANG",
        "LD_LIBRARY_PATH",
        "PYTHONPATH",
        "TMPDIR",
        "TOLLBRIDGE_LOCAL_THREADS",
        "VIRTUAL_ENV",
    )
    own = {name: environ[name] for name in needed if name in environ}

    def prepare() -> list[str]:
        return tethered([sys.executable, *SAFE_PATH, "-m", "upstream.local"], death_signal=signal.SIGKILL)

    async def is_ready() -> bool:
        return await http_is_ready(address)

    return Program(
        name=NAME,
        replica=None,
        prepare=prepare,
        environ={**own, "TOLLBRIDGE_HTTP_BIND": address, "PYTHONUNBUFFERED": "1"},
        log_path=data_dir.log(NAME),
        is_ready=is_ready,
        addresses={"http": address},
    )
