"""Prints what of the lock files is for a Linux with the given Python: `judge_markers.py 3.13 requirements/runtime.txt`.

`pip download --python-version` takes wheels for that version but judges `; python_version < "3.12"` by its own.
"""

import re
import sys
from pathlib import Path

from pip._vendor.packaging.requirements import Requirement


def for_python(text: str, version: str) -> list[str]:
    """The blocks of a lock file, hashes included, that apply; once each, without their markers."""
    here = {
        "python_version": version,
        "python_full_version": f"{version}.0",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "os_name": "posix",
    }
    found = []
    for block in re.split(r"\n(?=\S)", text):
        head, _, hashes = block.partition("\\\n")
        if not block.strip() or head.startswith("#"):
            continue
        wanted = Requirement(head.strip())
        if wanted.marker is None or wanted.marker.evaluate(here):
            kept = [line for line in hashes.splitlines() if line.strip().startswith("--hash")]
            found.append(f"{wanted.name}{wanted.specifier} \\\n" + "\n".join(kept) + "\n")
    return found


def main() -> None:
    """Joins the files; what is in several stands once."""
    version, *paths = sys.argv[1:]
    joined: dict[str, str] = {}
    for path in paths:
        for block in for_python(Path(path).read_text(), version):
            joined.setdefault(block.split(" ", 1)[0], block)
    sys.stdout.write("".join(joined.values()))


if __name__ == "__main__":
    main()
