"""From a checkout to a running system: `python3 bootstrap.py up|test|check|gen|bench|faults|containers [arguments]`.

Standard library only. Makes `.venv` beside this file, installs what the lock files name, each with its hash, and then
runs the command. A stamp of the lock files makes every later run instant. A fast installer (uv, itself locked) does
the work; where it can't, pip does.
"""

from __future__ import annotations

import compileall
import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

OLDEST = (3, 11)
ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
BIN = VENV / "bin"
PYTHON = BIN / "python"
REQUIREMENTS = ROOT / "requirements"
CONTAINERS = ROOT / "deploy" / "ci" / "containers.sh"
OWN = ("chassis", "pricing", "upstream", "cli", "services", "gen", "tests/fakes")
"""Our code, compiled ahead of its first start."""
EXTRAS = ("local-models",)
"""What is installed when the environment's EXTRAS names it (`make up EXTRAS=local-models`), and then stays."""
CHECKS = (
    ("formatting", [str(PYTHON), "-m", "ruff", "format", "--check", "."]),
    ("lint", [str(PYTHON), "-m", "ruff", "check", "."]),
    ("types", [str(PYTHON), "-m", "mypy"]),
    ("import contracts", [str(BIN / "lint-imports")]),
    ("generated code", [str(PYTHON), "proto/generate.py", "--check"]),
    ("protos", [str(BIN / "buf"), "lint", "proto"]),
    ("house rules", [str(PYTHON), "-m", "pytest", "tests/test_tidy.py"]),
)
COMMANDS = {
    "up": "runtime",
    "test": "dev",
    "check": "dev",
    "gen": "dev",
    "bench": "dev",
    "faults": "dev",
    "containers": "dev",
    "setup": "dev",
}
AT_LENGTH = [f"tests/unit/billing/test_{name}.py" for name in ("books", "store", "crowd")]
AT_LENGTH += ["tests/unit/auth/test_limit_windows.py", "tests/integration/test_openapi.py"]
"""What `make faults` runs longer than `make test`: the state machines of ledger and limits TOLLBRIDGE_TEST_FACTOR times
as long, and more calls at random.
"""
SIDE_BY_SIDE = ["-n", "3", "--dist", "loadfile", "--no-loadscope-reorder"]
"""How `make test` runs everything: a file's tests stay in one process, with servers of its own; most of them wait.

In the order of the folders, so that those which start whole systems come first and the short ones fill the end.
"""
NOT_POSSIBLE = 2


def main() -> int:
    """Sets up what the command needs and runs it."""
    arguments = sys.argv[1:] or ["up"]
    command, rest = arguments[0], arguments[1:]
    if command not in COMMANDS:
        print(__doc__.splitlines()[0], file=sys.stderr)
        return NOT_POSSIBLE
    use_new_enough_python()
    extras = os.environ.get("EXTRAS", "").replace(",", " ").split()
    unknown = [name for name in extras if name not in EXTRAS]
    if unknown:
        return refuse(f"EXTRAS: {unknown[0]!r} is none of {', '.join(EXTRAS)}")
    set_up(COMMANDS[command])
    compile_own()
    for name in extras:
        add_extra(name)
    if command == "up":
        os.execv(str(BIN / "tollbridge"), ["tollbridge", "up", *rest])
    os.chdir(ROOT)
    if command == "check":
        return check()
    if command == "setup":
        return 0
    if command == "containers":
        os.execv(str(CONTAINERS), [str(CONTAINERS), *rest])
    return run_tool(command, rest)


def run_tool(command: str, rest: list[str]) -> int:
    """Becomes the tool that the command stands for."""
    tools = {
        "test": ["-m", "pytest", *(rest or SIDE_BY_SIDE)],
        "gen": ["proto/generate.py", *rest],
        "faults": ["-m", "pytest", "tests/faults", *(rest or AT_LENGTH)],
        "bench": ["-m", "bench", *rest],
    }
    if command == "faults":
        os.environ.setdefault("TOLLBRIDGE_TEST_FACTOR", "20")
    os.execv(str(PYTHON), [str(PYTHON), *tools[command]])
    return 0


def check() -> int:
    """Runs every check, also after one has failed; returns 1 when any did."""
    failed = []
    for name, command in CHECKS:
        began = time.monotonic()
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        good = done.returncode == 0
        print(f"{'ok    ' if good else 'FAILED'} {name} ({time.monotonic() - began:.1f} s)", flush=True)
        if not good:
            failed.append(name)
            print((done.stdout + done.stderr).rstrip(), flush=True)
    return 1 if failed else 0


def use_new_enough_python() -> None:
    """Starts again with a newer interpreter when this one is too old and another is there."""
    if sys.version_info[:2] >= OLDEST:
        return
    for minor in range(20, OLDEST[1] - 1, -1):
        newer = shutil.which(f"python3.{minor}")
        if newer:
            os.execv(newer, [newer, str(Path(__file__).resolve()), *sys.argv[1:]])
    sys.exit(refuse(f"Python {OLDEST[0]}.{OLDEST[1]} or newer is needed; this is {sys.version.split()[0]}"))


def set_up(kind: str) -> None:
    """Makes or completes `.venv` for `kind` (runtime or dev), unless its stamp says that it is complete."""
    wanted = {name: fingerprint(name) for name in ("runtime", "dev")}
    if any(stamp(name).is_file() and stamp(name).read_text() == wanted[name] for name in {kind, "dev"}):
        return
    began = time.monotonic()
    say(f"setting up {VENV} with Python {sys.version.split()[0]}; the first time takes a while")
    try:
        make_venv()
        install(kind)
    except subprocess.CalledProcessError as error:
        sys.exit(refuse(f"`{' '.join(map(str, error.cmd))}` failed (status {error.returncode})"))
    except PermissionError as error:
        sys.exit(refuse(f"{error.filename} can't be written; whose is it? Remove {VENV} and try again"))
    stamp(kind).write_text(wanted[kind])
    say(f"set up in {time.monotonic() - began:.0f} s")


def compile_own() -> None:
    """Compiles what has changed, so that a start reads it ready also where PYTHONDONTWRITEBYTECODE is set.

    Otherwise each of its processes would compile all that it imports, at every start: a third of a second of a core.
    Where nothing can be written they still do.
    """
    for name in OWN:
        compileall.compile_dir(ROOT / name, quiet=2)


def add_extra(name: str) -> None:
    """Installs what an extra's lock file names, unless it is there, and nothing else that its packages ask for."""
    wanted = fingerprint(name)
    if stamp(name).is_file() and stamp(name).read_text() == wanted:
        return
    say(f"adding {name}; it is large, so this may take minutes")
    pip = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", "--no-input"]
    locked = ["--no-deps", "--require-hashes", "-r", str(lock_files(name)[0])]
    by_uv = [str(BIN / "uv"), "pip", "install", "--python", str(PYTHON), *locked]
    if not succeeds(by_uv, env=uv_environment(pip)) and not succeeds([*pip, "install", *locked]):
        sys.exit(refuse(f"{name} can't be installed on this machine; without it everything else runs"))
    stamp(name).write_text(wanted)


def fingerprint(kind: str) -> str:
    """Names everything that a complete `.venv` depends on."""
    digest = hashlib.sha256(f"{ROOT}\n{sys.version_info[:2]}\n".encode())
    for path in (*lock_files(kind), REQUIREMENTS / "uv.txt", ROOT / "pyproject.toml"):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def lock_files(kind: str) -> list[Path]:
    """The lock files of a kind; dev holds all of runtime and what building needs. An extra has its own."""
    names = {"runtime": ("runtime.txt", "build.txt"), "dev": ("dev.txt",)}
    return [REQUIREMENTS / name for name in names.get(kind, (f"{kind}.txt",))]


def stamp(kind: str) -> Path:
    """Where it is written down that `.venv` is complete."""
    return VENV / f".complete-{kind}"


def make_venv() -> None:
    """Makes `.venv` by whatever this machine has for it; keeps one that works."""
    if PYTHON.exists() and (BIN / "pip").exists() and succeeds([str(PYTHON), "-c", "pass"]) and same_version():
        return
    if VENV.exists():
        shutil.rmtree(VENV)
    for way in venv_ways():
        say(f"making {VENV.name} by {Path(way[0]).name} {' '.join(way[1:3])}")
        if succeeds(way) and PYTHON.exists():
            return
        shutil.rmtree(VENV, ignore_errors=True)
    line = "apt-get install -y python3-venv"
    if os.geteuid() == 0 and shutil.which("apt-get"):
        say(f"this Python can't make virtual environments; running `{line}`")
        succeeds(["apt-get", "update", "-q"])
        succeeds(line.split())
        if succeeds([sys.executable, "-m", "venv", str(VENV)]):
            return
    sys.exit(
        refuse(
            "this Python can't make virtual environments (ensurepip is missing). Run this, then try again:\n\n"
            f"    {'' if os.geteuid() == 0 else 'sudo '}{line}\n"
        )
    )


def same_version() -> bool:
    """Whether `.venv` has the Python that we run with."""
    shown = subprocess.run(
        [str(PYTHON), "-c", "import sys; print(*sys.version_info[:2])"], capture_output=True, text=True, check=False
    )
    return shown.stdout.split() == [str(part) for part in sys.version_info[:2]]


def venv_ways() -> list[list[str]]:
    """The commands that may make a virtual environment with pip here, best first."""
    ways = []
    if succeeds([sys.executable, "-c", "import ensurepip, venv"]):
        ways.append([sys.executable, "-m", "venv", str(VENV)])
    uv, virtualenv = shutil.which("uv"), shutil.which("virtualenv")
    if uv:
        ways.append([uv, "venv", "--seed", "--quiet", "--python", sys.executable, str(VENV)])
    if virtualenv:
        ways.append([virtualenv, "--quiet", "--python", sys.executable, str(VENV)])
    if succeeds([sys.executable, "-c", "import virtualenv"]):
        ways.append([sys.executable, "-m", "virtualenv", "--quiet", str(VENV)])
    return ways


def install(kind: str) -> None:
    """Installs the locked dependencies and our own package, by uv or else by pip."""
    pip = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", "--no-input"]
    locked = [part for path in lock_files(kind) for part in ("-r", str(path))]
    own = ["--no-deps", "--no-build-isolation", "-e", str(ROOT)]
    say("[1/3] the installer")
    if succeeds([*pip, "install", "--quiet", "--require-hashes", "-r", str(REQUIREMENTS / "uv.txt")]):
        uv = [str(BIN / "uv"), "pip", "install", "--python", str(PYTHON)]
        settings = uv_environment(pip)
        say("[2/3] the dependencies")
        if succeeds([*uv, "--require-hashes", "--compile-bytecode", *locked], env=settings):
            say("[3/3] Tollbridge itself")
            if succeeds([*uv, "--quiet", *own], env=settings):
                return
        say("uv could not do it; pip will, more slowly")
    say("[2/3] the dependencies")
    subprocess.run([*pip, "install", "--require-hashes", *locked], check=True)
    say("[3/3] Tollbridge itself")
    subprocess.run([*pip, "install", "--quiet", *own], check=True)


def uv_environment(pip: list[str]) -> dict[str, str]:
    """Tells uv where pip was told to look: indexes, folders of wheels and certificates of this machine.

    With hashes locked it doesn't matter which of them a file comes from. Where pip looks in all of them, uv takes the
    first that has the version at all: what a machine added last is asked first, since it fills the gaps of the others.
    """
    listed = subprocess.run([*pip, "config", "list"], capture_output=True, text=True, check=False).stdout
    found: dict[str, str] = {}
    for line in listed.splitlines():
        name, _, value = line.partition("=")
        found[name.rpartition(".")[2]] = value.strip().strip("'\"")
    settings = dict(os.environ)
    settings.setdefault("UV_INDEX_STRATEGY", "unsafe-best-match")
    translated = {
        "index-url": "UV_DEFAULT_INDEX",
        "extra-index-url": "UV_INDEX",
        "find-links": "UV_FIND_LINKS",
        "cert": "SSL_CERT_FILE",
    }
    for name, variable in translated.items():
        if name in found:
            separator = "," if name == "find-links" else " "
            places = found[name].replace("\\n", " ").split()
            settings.setdefault(variable, separator.join(reversed(places)))
    return settings


def succeeds(command: list[str], env: dict[str, str] | None = None) -> bool:
    """Runs a command; its output is shown, unless it is only a question (`-c`)."""
    quiet = subprocess.DEVNULL if "-c" in command else None
    try:
        return subprocess.run(command, check=False, env=env, stdout=quiet, stderr=quiet).returncode == 0
    except OSError:
        return False


def say(line: str) -> None:
    """Shows progress."""
    print(f"bootstrap: {line}", flush=True)


def refuse(message: str) -> int:
    """Says why nothing more can be done; returns the exit status for that."""
    print(f"bootstrap: {message}", file=sys.stderr)
    return NOT_POSSIBLE


if __name__ == "__main__":
    sys.exit(main())
