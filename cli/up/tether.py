"""Ties a process to its parent, then becomes the command: `tether.py SIGNAL PARENT_PID COMMAND …`.

On Linux the kernel sends SIGNAL to the command when its parent dies, however it dies. Elsewhere nothing does:
the next start ends what was left (see `orphans.py`). Runs before anything is installed or imported, so:
standard library.
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Ties and execs; never returns."""
    number, parent, command = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_PDEATHSIG, number, 0, 0, 0) != 0:
            sys.exit(f"tether: prctl failed: {os.strerror(ctypes.get_errno())}")
        if os.getppid() != parent:  # it died before the tie was made, so no signal will ever come
            sys.exit("tether: the parent is gone")
    try:
        os.execv(command[0], command)
    except OSError as error:
        sys.exit(f"tether: can't run {command[0]}: {error.strerror}")


if __name__ == "__main__":
    main()
