"""Makes `gen/` from the protos with the one pinned generator; `--check` only compares.

The generated code is committed so that a fresh machine needs no compiler, and so that a change of it is seen in review.
"""

import filecmp
import sys
import tempfile
from pathlib import Path

PROTO = Path(__file__).resolve().parent
GEN = PROTO.parent / "gen"


def generate(into: Path) -> None:
    """Compiles every proto, with typed stubs, into the folder `into`."""
    from grpc_tools import protoc  # only here: this file is importable without the development tools

    into.mkdir(parents=True, exist_ok=True)
    sources = sorted(str(path) for path in PROTO.rglob("*.proto"))
    plugins = Path(sys.executable).parent
    arguments = [
        "protoc",
        f"-I{PROTO}",
        f"-I{Path(protoc.__file__).parent / '_proto'}",
        f"--plugin=protoc-gen-mypy={plugins / 'protoc-gen-mypy'}",
        f"--plugin=protoc-gen-mypy_grpc={plugins / 'protoc-gen-mypy_grpc'}",
        f"--python_out={into}",
        f"--grpc_python_out={into}",
        f"--mypy_out=quiet:{into}",
        f"--mypy_grpc_out=quiet:{into}",
        *sources,
    ]
    if protoc.main(arguments) != 0:
        raise SystemExit("protoc failed")
    for package in (into / "tollbridge").rglob("*"):
        if package.is_dir():
            (package / "__init__.py").touch()
    (into / "tollbridge" / "__init__.py").touch()


def differences(left: Path, right: Path) -> list[str]:
    """Names of files that are missing on a side or differ, relative to the folders."""
    names = {
        path.relative_to(root).as_posix()
        for root in (left, right)
        for path in root.rglob("*")
        if path.is_file() and path.suffix in {".py", ".pyi"}
    }
    return sorted(
        name
        for name in names
        if not (left / name).exists()
        or not (right / name).exists()
        or not filecmp.cmp(left / name, right / name, shallow=False)
    )


def main() -> int:
    if "--check" not in sys.argv:
        generate(GEN)
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        generate(Path(scratch))
        stale = differences(Path(scratch), GEN)
    for name in stale:
        sys.stderr.write(f"gen/{name} is not what the protos say: run `make gen`\n")
    return 1 if stale else 0


if __name__ == "__main__":
    raise SystemExit(main())
