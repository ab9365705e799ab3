"""Reads export files of any of the providers: JSON (a page, a list of pages, or a page a line) or CSV, told by content.

What can't be understood is refused whole: a report on half an export would show drift that isn't there. The same file
twice and a last page that announces another are refused for the same reason. Files that overlap otherwise are
not noticed, unless they list requests.
"""

import csv
import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

from services.billing.exports import anthropic, openai, openrouter
from services.billing.exports.line import ExportError, ExportLine

MAX_BYTES = 256 * 1024 * 1024
DELIMITERS = ",\t;"


class _Shape(NamedTuple):
    from_page: Callable[[Mapping[str, object]], Iterator[ExportLine]]
    from_row: Callable[[Mapping[str, object]], ExportLine]
    columns: frozenset[str]
    """A CSV of this provider has one of these."""


_SHAPES: Mapping[str, _Shape] = {
    "openai": _Shape(openai.from_page, openai.from_row, frozenset({"start_time", "start_time_iso"})),
    "anthropic": _Shape(anthropic.from_page, anthropic.from_row, frozenset({"usage_date_utc"})),
    "openrouter": _Shape(openrouter.from_page, openrouter.from_row, frozenset({"created_at", "date"})),
}
PROVIDERS = tuple(_SHAPES)


def read(paths: Sequence[Path], *, provider: str) -> list[ExportLine]:
    """The lines of all files. Raises ExportError, which names the file, and OSError."""
    shape = _SHAPES[provider]
    known: dict[str, Path] = {}
    lines: list[ExportLine] = []
    announced = [False, False]
    for path in paths:
        content = _content(path, known)
        try:
            if content.lstrip()[:1] in ("{", "["):
                for page in _pages(content):
                    announced[bool(page.get("has_more"))] = True
                    lines += shape.from_page(page)
            else:
                lines += _rows(content, shape)
        except ExportError as error:
            raise ExportError(f"{path}: {error}") from error
    if announced == [False, True]:
        raise ExportError("the export is not whole: each of its pages says that there are more")
    if len({bool(it.generation_id) for it in lines if it.measures}) > 1:
        raise ExportError("sums of days and lists of requests count the same requests: give one or the other")
    return _once(lines)


def _content(path: Path, known: dict[str, Path]) -> str:
    if path.stat().st_size > MAX_BYTES:
        raise ExportError(f"{path}: larger than {MAX_BYTES} bytes; split it by day")
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if digest in known:
        raise ExportError(f"{path}: the same as {known[digest]}; it would be counted twice")
    known[digest] = path
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ExportError(f"{path}: not UTF-8") from error


def _pages(content: str) -> Iterator[Mapping[str, object]]:
    decoder = json.JSONDecoder(parse_float=Decimal)
    content = content.strip()
    place, end = 0, len(content)
    while place < end:
        try:
            value, place = decoder.raw_decode(content, place)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ExportError(f"no JSON: {error}") from error
        for page in value if isinstance(value, list) else [value]:
            if not isinstance(page, Mapping):
                raise ExportError("a page is no object")
            yield page
        while place < end and content[place].isspace():
            place += 1


def _rows(content: str, shape: _Shape) -> Iterator[ExportLine]:
    first = content.partition("\n")[0]
    reader = csv.DictReader(io.StringIO(content, newline=""), delimiter=max(DELIMITERS, key=first.count))
    columns = frozenset(name.strip() for name in reader.fieldnames or () if name)
    if not columns & shape.columns:
        raise ExportError(f"neither JSON nor a CSV with a column {' or '.join(sorted(shape.columns))}")
    try:
        for row in reader:
            if None in row or None in row.values():
                raise ExportError(f"line {reader.line_num} has not the columns of the first line")
            try:
                yield shape.from_row({name.strip(): value for name, value in row.items()})
            except ExportError as error:
                raise ExportError(f"line {reader.line_num}: {error}") from error
    except csv.Error as error:
        raise ExportError(f"line {reader.line_num}: {error}") from error


def _once(lines: Sequence[ExportLine]) -> list[ExportLine]:
    """A generation that two overlapping files list is one."""
    seen: dict[str, ExportLine] = {}
    for found in lines:
        if found.generation_id and seen.setdefault(found.generation_id, found) != found:
            raise ExportError(f"{found.generation_id} is listed twice, and not alike")
    return [*seen.values(), *(found for found in lines if not found.generation_id)]
