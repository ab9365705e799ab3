"""How root runs PostgreSQL, which refuses to be root, and how a user without a name does, whom it refuses too.

Three ways, best first: a user namespace that shows us as 65534 (files stay our own); for root, setpriv to 65534,
keeping the right to pass folders that only root may enter; else a clear error. Each way is tried with the
real files before it is chosen, because containers and kernels refuse them in many manners. An ordinary user
needs none of it, unless the user has no entry in the list of users, as in containers that run with any uid.
"""

import os
import pwd
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

NOBODY = 65_534
PROBE_TIMEOUT_S = 10.0
CAPABILITIES = ("dac_override,dac_read_search", "dac_override", "")  # containers often lack the second


class UserRefused(Exception):
    """PostgreSQL doesn't run as this user, and this machine gives no way around it; the message says what was tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Disguise:
    """What to put before a command, and who must own its files."""

    prefix: tuple[str, ...]
    owner: int


def find_disguise(*, programs: Sequence[Path], directory: Path) -> Disguise:
    """Returns the first way in which all `programs` can be run and `directory`, which exists, be written to.

    Raises UserRefused when there is none.
    """
    user = os.geteuid()
    if user != 0 and _has_name(user):
        return Disguise(prefix=(), owner=user)
    refusals = []
    for disguise in _candidates(user):
        refusal = _refusal(disguise, programs, directory)
        if refusal is None:
            return disguise
        refusals.append(f"{disguise.prefix[0]}: {refusal}")
    tried = "; ".join(dict.fromkeys(refusals)) or "neither unshare nor setpriv (util-linux) is installed"
    who = "root" if user == 0 else f"the user {user}, who has no name on this machine"
    raise UserRefused(
        f"PostgreSQL doesn't run as {who}, and this machine refuses to run it as another user "
        f"({tried}). Run `tollbridge up` as an ordinary user, or give it a server with --database-url."
    )


def _has_name(user: int) -> bool:
    try:
        pwd.getpwuid(user)
    except KeyError:
        return False
    return True


def hand_over(directory: Path, *, owner: int) -> None:
    """Gives `directory` and all in it to `owner`, if it isn't theirs: the way may have changed meanwhile."""
    if not directory.exists() or os.geteuid() != 0 or directory.stat().st_uid == owner:
        return
    for folder, _, files in os.walk(directory, topdown=False):
        for name in files:
            os.chown(Path(folder, name), owner, owner, follow_symlinks=False)
        os.chown(folder, owner, owner)  # the top comes last: an interrupted hand-over is begun again


def _candidates(user: int) -> list[Disguise]:
    found = []
    unshare, setpriv = shutil.which("unshare"), shutil.which("setpriv")
    if unshare:
        prefix = (unshare, "-U", f"--map-user={NOBODY}", f"--map-group={NOBODY}")
        found.append(Disguise(prefix=prefix, owner=user))
    if setpriv and user == 0:
        found.extend(Disguise(prefix=_setpriv(setpriv, kept), owner=NOBODY) for kept in CAPABILITIES)
    return found


def _setpriv(program: str, kept: str) -> tuple[str, ...]:
    change = (program, f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
    if not kept:
        return change
    added = ",".join(f"+{name}" for name in kept.split(","))
    return (*change, f"--inh-caps={added}", f"--ambient-caps={added}", "--securebits=+no_setuid_fixup")


def _refusal(disguise: Disguise, programs: Sequence[Path], directory: Path) -> str | None:
    probe = directory / ".probe"
    try:
        probe.mkdir(mode=0o700, exist_ok=True)
        if os.geteuid() == 0:
            os.chown(probe, disguise.owner, disguise.owner)
        for command in (
            *([str(program), "--version"] for program in programs),
            ["touch", str(probe / "file")],
        ):
            tried = subprocess.run(
                [*disguise.prefix, *command],
                capture_output=True,
                text=True,
                check=False,
                timeout=PROBE_TIMEOUT_S,
            )
            if tried.returncode != 0:
                return (tried.stderr.strip() or f"exit status {tried.returncode}").splitlines()[-1]
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    finally:
        shutil.rmtree(probe, ignore_errors=True)
    return None
