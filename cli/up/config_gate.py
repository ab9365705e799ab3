"""The gate between the operator's config file and the services: what one of them can't use, none of them gets.

The services watch a copy in the data directory. Whenever the operator's file changes, or one that it refers to, it is
checked as all five services read it, with the environment that they have, and only then takes the copy's place, at once
and byte for byte. Until then, and for a file with a mistake, everybody runs on, and starts again, with what ran before;
why is in the note beside the copy (`chassis.config_gate`), which every service tells as its own.
"""

import hashlib
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from chassis.config import ConfigError, ConfigFiles
from chassis.config_gate import GateNote, note_path
from cli.config_check import Findings, check
from cli.up.data_dir import write_private

LOOK_EVERY_S = 0.1
READS = 5
"""A file that is being written is read again; one that never keeps still is refused for now."""
MAX_REASON = 4000


class ConfigGate:
    """Lets `source` pass to `target`, when it is right."""

    def __init__(self, *, source: Path, target: Path, environ: Mapping[str, str]) -> None:
        self._source, self._target, self._environ = source, target, environ
        self._files = ConfigFiles(source)
        self._last = self._seen = ""

    def admit(self) -> Findings:
        """Checks the file as it is now and makes it the services'. Raises ConfigError, OSError, and changes nothing."""
        for _ in range(READS):
            found = check(self._source, environ=self._environ)
            raw = self._source.read_bytes()
            if found.hash == hashlib.sha256(raw).hexdigest():
                write_private(self._target, raw.decode())
                self._note("")
                return found
        raise ConfigError("changes all the time", path=self._source)

    def look(self, say: Callable[[str], None]) -> None:
        """Admits a file that has changed and keeps still since the last look, or notes what is wrong with it.

        A file is often emptied before it is written anew, and an empty one is a valid config: it would stop everything,
        so it takes effect by a new start only.
        """
        before, self._last = self._last, self._files.look()
        now = self._last
        if now == self._seen or now != before:
            return
        try:
            try:
                if not self._source.stat().st_size:
                    raise ConfigError("is empty", path=self._source)
                found = self.admit()
            except (ConfigError, FileNotFoundError, PermissionError) as error:
                self._note(str(error)[:MAX_REASON])
                say(f"refused: {error}")
            except (ValueError, TypeError, LookupError, ArithmeticError, RecursionError) as error:
                self._note(f"{self._source}: could not be checked: {type(error).__name__}")  # a fault of a check itself
                say(f"refused: {error!r}")
            else:
                say(f"admitted {found.hash}")
        except OSError as error:  # the copy, or the note, can't be written: tried again
            say(f"could not be written: {error}")
            return
        self._seen = now

    def _note(self, refused: str) -> None:
        note = GateNote(source=str(self._source), refused=refused)
        write_private(note_path(self._target), msgspec.json.encode(note).decode())


def main() -> None:
    """`python -m cli.up.config_gate SOURCE TARGET`: follows the file until it is ended."""
    gate = ConfigGate(source=Path(sys.argv[1]), target=Path(sys.argv[2]), environ=os.environ)

    said = ""

    def say(line: str) -> None:
        nonlocal said
        if line != said:
            print(f"config {line}", file=sys.stderr, flush=True)
        said = line

    while True:
        gate.look(say)
        time.sleep(LOOK_EVERY_S)


if __name__ == "__main__":
    main()
