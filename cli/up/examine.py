"""Helper process: checks the config file and prints, for the supervisor only, what it must know of it."""

import os
import sys
from pathlib import Path

import msgspec

from chassis.config import ConfigError
from cli.config_check import check


def main() -> None:
    """`python -m cli.up.examine FILE`: findings as JSON on stdout; what is wrong on stderr, with status 1."""
    try:
        found = check(Path(sys.argv[1]), environ=os.environ)
    except (ConfigError, OSError) as error:
        sys.exit(str(error))
    sys.stdout.buffer.write(msgspec.json.encode(found))


if __name__ == "__main__":
    main()
