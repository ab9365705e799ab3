"""CPU seconds of processes, from /proc: says what a request costs where rates swing."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

_PARENT, _FIRST, _LAST = 1, 11, 15
"""Fields of /proc/PID/stat behind the name: the parent; utime, stime, and both of children that ended, in ticks."""
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def used_s(pids: Sequence[int]) -> float:
    """By these processes and those that they started."""
    table = dict(_processes())
    wanted, found = list(pids), set[int]()
    while wanted:
        pid = wanted.pop()
        if pid in table and pid not in found:
            found.add(pid)
            wanted += [child for child, fields in table.items() if int(fields[_PARENT]) == pid]
    return sum(int(ticks) for pid in found for ticks in table[pid][_FIRST:_LAST]) * _TICK_S


def _processes() -> Iterator[tuple[int, list[str]]]:
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                text = (folder / "stat").read_text()
            except OSError:  # it has ended
                continue
            yield int(folder.name), text.rpartition(")")[2].split()
