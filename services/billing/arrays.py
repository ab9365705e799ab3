"""Columns of many rows as texts of PostgreSQL arrays, for unnest().

psycopg makes arrays of any values, and asks of each what it is; for the hundreds of rows that one transaction writes
that took longer than all else that is done with them here. It also names a type by what it finds, `smallint[]` for
small numbers, so that one statement was prepared many times over.
"""

from collections.abc import Iterable
from uuid import UUID


def ids(values: Iterable[UUID | None]) -> str:
    """For `uuid[]`."""
    return _joined(["NULL" if value is None else value.hex for value in values])


def numbers(values: Iterable[int | None]) -> str:
    """For `bigint[]` and its like."""
    return _joined(["NULL" if value is None else str(value) for value in values])


def flags(values: Iterable[bool]) -> str:
    """For `boolean[]`."""
    return _joined(["t" if value else "f" for value in values])


def texts(values: Iterable[str | None]) -> str:
    """For `text[]`, whatever stands in them. Few of them differ, as a rule."""
    seen = list(values)
    quoted = {value: _quoted(value) for value in set(seen)}
    return _joined([quoted[value] for value in seen])


def _quoted(value: str | None) -> str:
    if value is None:
        return "NULL"
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _joined(elements: list[str]) -> str:
    return "{" + ",".join(elements) + "}"
