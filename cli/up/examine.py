"""Helper process: lets the config file pass to the services, and prints what the supervisor must know of it."""

import os
import sys
from pathlib import Path

import msgspec

from chassis.config import ConfigError
from cli.up.config_gate import ConfigGate


def main() -> None:
    """`python -m cli.up.examine FILE TARGET`: findings as JSON on stdout; what is wrong on stderr, with status 1."""
    gate = ConfigGate(source=Path(sys.argv[1]), target=Path(sys.argv[2]), environ=os.environ)
    try:
        found = gate.admit()
    except (ConfigError, OSError) as error:
        sys.exit(str(error))
    sys.stdout.buffer.write(msgspec.json.encode(found))


if __name__ == "__main__":
    main()
