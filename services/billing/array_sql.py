"""Columns of many rows as arrays in PostgreSQL's binary form, for unnest().

psycopg makes arrays of any values, and asks of each what it is; for the hundreds of rows that one transaction writes
that took longer than all else that is done with them here. It also names a type by what it finds, `smallint[]` for
small numbers, so that one statement was prepared many times over. As texts they cost PostgreSQL a tenth of all that it
does for a charge, to be read letter by letter.
"""

import struct
from collections.abc import Iterable, Sequence
from uuid import UUID

import psycopg
from psycopg.adapt import Dumper
from psycopg.postgres import types
from psycopg.pq import Format

_HEADER = struct.Struct("!5i")  # dimensions, whether any is null (not looked at), type, elements, first index
_LENGTH = struct.Struct("!i")
_ID_LENGTH = _LENGTH.pack(16)
_NULL = _LENGTH.pack(-1)


class _Array(bytes):
    """An array as PostgreSQL receives it."""


class Ids(_Array):
    """A `uuid[]`."""


class Numbers(_Array):
    """A `bigint[]`."""


class Texts(_Array):
    """A `text[]`."""


class Flags(_Array):
    """A `boolean[]`."""


def ids(values: Iterable[UUID | None]) -> Ids:
    """For `uuid[]`."""
    elements = [_NULL if value is None else _ID_LENGTH + value.int.to_bytes(16, "big") for value in values]
    return Ids(_joined("uuid", len(elements), b"".join(elements)))


def numbers(values: Iterable[int | None]) -> Numbers:
    """For `bigint[]`, from which PostgreSQL makes its like."""
    seen = list(values)
    if None in seen:
        elements = [_NULL if value is None else _numbers([value]) for value in seen]
        return Numbers(_joined("int8", len(seen), b"".join(elements)))
    return Numbers(_joined("int8", len(seen), _numbers(seen)))


def flags(values: Iterable[bool]) -> Flags:
    """For `boolean[]`."""
    elements = [_LENGTH.pack(1) + bytes([value]) for value in values]
    return Flags(_joined("bool", len(elements), b"".join(elements)))


def texts(values: Iterable[str | None]) -> Texts:
    """For `text[]`, whatever stands in them. Few of them differ, as a rule."""
    seen = list(values)
    elements = {value: _text(value) for value in set(seen)}
    if len(elements) == 1:
        return Texts(_joined("text", len(seen), elements[seen[0]] * len(seen)))
    return Texts(_joined("text", len(seen), b"".join([elements[value] for value in seen])))


def _numbers(values: Sequence[int | None]) -> bytes:
    """Each behind its length, in one call for all of them; none of them is null."""
    parts: list[int | None] = [8] * (2 * len(values))
    parts[1::2] = values
    return struct.pack("!" + "iq" * len(values), *parts)


def _text(value: str | None) -> bytes:
    if value is None:
        return _NULL
    encoded = value.encode()
    return _LENGTH.pack(len(encoded)) + encoded


def _joined(kind: str, count: int, elements: bytes) -> bytes:
    return _HEADER.pack(1, 0, types[kind].oid, count, 1) + elements


class _ArrayDumper(Dumper):
    format = Format.BINARY

    def dump(self, obj: bytes) -> bytes:
        return obj


class _IdsDumper(_ArrayDumper):
    oid = types["uuid"].array_oid


class _NumbersDumper(_ArrayDumper):
    oid = types["int8"].array_oid


class _TextsDumper(_ArrayDumper):
    oid = types["text"].array_oid


class _FlagsDumper(_ArrayDumper):
    oid = types["bool"].array_oid


# Tells psycopg of the classes above, and of nothing that others send.
psycopg.adapters.register_dumper(Ids, _IdsDumper)
psycopg.adapters.register_dumper(Numbers, _NumbersDumper)
psycopg.adapters.register_dumper(Texts, _TextsDumper)
psycopg.adapters.register_dumper(Flags, _FlagsDumper)
