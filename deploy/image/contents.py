"""What is in an image, without its times: `docker export CONTAINER | python3 deploy/image/contents.py opt/tollbridge`.

A line for each file, folder and link below that path: mode, owner, what it holds and its name, in the order of names.
Two builds of the same files, locks and base print the same (deploy/ci/same_twice.sh).
"""

import hashlib
import sys
import tarfile
from typing import IO


def lines(archive: IO[bytes], below: str) -> list[str]:
    """The lines, sorted; `below` is without its leading slash."""
    found = []
    with tarfile.open(fileobj=archive, mode="r|") as members:
        for member in members:
            name = member.name.removeprefix("./")
            if name != below and not name.startswith(below + "/"):
                continue
            found.append(f"{name} {member.mode:o} {member.uid}:{member.gid} {_held(members, member)}\n")
    return sorted(found)


def _held(members: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    if member.issym() or member.islnk():
        return f"-> {member.linkname}"
    file = members.extractfile(member)
    return hashlib.sha256(file.read()).hexdigest() if file else "folder"


def main() -> int:
    """Prints them; nothing below that path is an error, since two nothings would be the same."""
    found = lines(sys.stdin.buffer, sys.argv[1].strip("/"))
    sys.stdout.writelines(found)
    return 0 if found else 1


if __name__ == "__main__":
    sys.exit(main())
