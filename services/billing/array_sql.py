"""Columns of many rows as arrays in PostgreSQL's binary form, for unnest().

psycopg makes arrays of any values, and asks of each what it is; for the hundreds of rows that one transaction writes
that took longer than all else that is done with them here. It also names a type by what it finds, `smallint[]` for
small numbers, so that one statement was prepared many times over. As texts they cost PostgreSQL a tenth of all that it
does for a charge, to be read letter by letter.
"""

import struct
from collections.abc import Iterable
from uuid import UUID

import psycopg
from psycopg.adapt import Dumper
from psycopg.postgres import types
from psycopg.pq import Format

_HEADER = struct.Struct("!5i")  # dimensions, whether any is null (not looked at), type, elements, first index
_LENGTH = struct.Struct("!i")
_NUMBER = struct.Struct("!iq")
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
    return Ids(_joined("uuid", [_NULL if value is None else _ID_LENGTH + value.bytes for value in values]))


def numbers(values: Iterable[int | None]) -> Numbers:
    """For `bigint[]`, from which PostgreSQL makes its like."""
    return Numbers(_joined("int8", [_NULL if value is None else _NUMBER.pack(8, value) for value in values]))


def flags(values: Iterable[bool]) -> Flags:
    """For `boolean[]`."""
    return Flags(_joined("bool", [_LENGTH.pack(1) + bytes([value]) for value in values]))


def texts(values: Iterable[str | None]) -> Texts:
    """For `text[]`, whatever stands in them. Few of them differ, as a rule."""
    seen = list(values)
    elements = {value: _text(value) for value in set(seen)}
    return Texts(_joined("text", [elements[value] for value in seen]))


def _text(value: str | None) -> bytes:
    if value is None:
        return _NULL
    encoded = value.encode()
    return _LENGTH.pack(len(encoded)) + encoded


def _joined(kind: str, elements: list[bytes]) -> bytes:
    return _HEADER.pack(1, 0, types[kind].oid, len(elements), 1) + b"".join(elements)


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
