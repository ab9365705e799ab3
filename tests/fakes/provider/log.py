"""The provider's own record of what it was asked and did, synced line by line, so that no test trusts a gateway.

Two lines a request: `arrived` with who asked for what, and `ended` with the tokens of the answer and how far it came.
`finished` is true when every byte, the end mark too, was handed to the socket; else `cut` says who ended it: `client`,
`script`, or `refused` for an answer that was scripted to be an error.
"""

import itertools
import json
import os
import time
from pathlib import Path
from typing import Any


class ProviderLog:
    """Appends JSON lines; each is on disk before `write` returns, unless it is not `synced`."""

    def __init__(self, path: Path, *, synced: bool = True) -> None:
        self._synced = synced
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._numbers = itertools.count(1)
        self._run = f"{os.getpid()}-{time.time_ns()}"

    def next_id(self) -> str:
        """An id that no other request has, in this run or a later one with the same file."""
        return f"{self._run}-{next(self._numbers)}"

    def write(self, line: dict[str, Any]) -> None:
        """Adds one line."""
        os.write(self._descriptor, json.dumps({"at_us": time.time_ns() // 1000, **line}).encode() + b"\n")
        if self._synced:
            os.fsync(self._descriptor)

    def close(self) -> None:
        """Lets go of the file."""
        os.close(self._descriptor)
