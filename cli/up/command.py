"""`tollbridge up` towards its terminal: signals in, a few lines out.

The first Ctrl-C, SIGTERM or SIGHUP stops in order; a second one cuts short what is still draining. SIGUSR1 restarts the
services one after another, without refusing a request (`tollbridge restart` sends it).
"""

import asyncio
import contextlib
import json
import signal
import sys
from typing import Any

from cli.up.data_dir import DataDirError
from cli.up.helper_process import HelperFailed
from cli.up.instance import Instance
from cli.up.options import UpOptions, WrongOption
from cli.up.supervised import StartFailed

FAILED, NOT_POSSIBLE = 1, 2
SAME_REQUEST_S = 0.5
"""Tools that stop a whole process group signal its head twice; nobody is in a hurry that fast."""


def run_up(options: UpOptions) -> int:
    """Runs the instance until it is told to stop; returns the exit status."""
    try:
        asyncio.run(_run(options))
    except (WrongOption, DataDirError) as error:
        print(f"tollbridge up: {error}", file=sys.stderr)
        return NOT_POSSIBLE
    except (StartFailed, HelperFailed) as error:
        print(f"tollbridge up: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:  # in the moment after everything has stopped
        return FAILED
    return 0


async def _run(options: UpOptions) -> None:
    stop, hurry, renew = asyncio.Event(), asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    asked_at_s = 0.0

    def on_signal() -> None:
        nonlocal asked_at_s
        if not stop.is_set():
            asked_at_s = loop.time()
            stop.set()
            _announce("stopping; once more to hurry")
        elif loop.time() - asked_at_s > SAME_REQUEST_S:
            hurry.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, on_signal)
    loop.add_signal_handler(signal.SIGUSR1, renew.set)
    _announce(f"starting; data in {options.data_dir.absolute()}, config {options.config}")
    await Instance(options=options, announce=_announce).run(stop=stop, hurry=hurry, renew=renew, when_ready=_welcome)
    _announce("stopped")


def _announce(line: str) -> None:
    _show(f"tollbridge: {line}")


def _show(text: str) -> None:
    with contextlib.suppress(OSError):  # a terminal or a pipe that has gone away is no reason to stop, or not to
        print(text, flush=True)


def _welcome(ready: dict[str, Any], findings: dict[str, str]) -> None:
    base_url = ready["base_url"] + findings["prefix"].rstrip("/")
    body = {
        "model": findings["demo_model"] or "sandbox-chat",
        "messages": [{"role": "user", "content": "Say hello."}],
        "stream": True,
    }
    _show(
        f"\n  base URL  {base_url}\n"
        f"  demo key  {ready['demo_key']}\n\n"
        f"  curl -N {base_url}/chat/completions \\\n"
        f"    -H 'Authorization: Bearer {ready['demo_key']}' \\\n"
        f"    -H 'Content-Type: application/json' \\\n"
        f"    -d '{json.dumps(body)}'\n\n"
        "  Ctrl-C stops everything.\n"
    )
