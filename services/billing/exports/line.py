"""One line of a provider's usage export, whatever file it came from, and how its fields are read.

A line says only what the export says: a measure that a provider doesn't report is absent, not 0, and isn't compared.
Totals stay totals (`prompt`, `completion`), because not every export tells their parts.
"""

import datetime
from collections.abc import Mapping
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation

import msgspec

COST = "cost_nano_usd"
REQUESTS = "requests"
TOKEN_CLASSES = (
    "input",
    "cached_input",
    "cache_write",
    "cache_write_1h",
    "output",
    "reasoning",
    "audio_input",
    "audio_output",
)
UNITS = ("images", "characters")
MEASURES = frozenset({COST, REQUESTS, "prompt", "completion", *TOKEN_CLASSES, *UNITS})

_MAX = 10**18
_NANO = 10**9


class ExportError(Exception):
    """A file that can't be read as an export of that provider; the message says where and why."""


class ExportLine(msgspec.Struct, frozen=True, kw_only=True):
    """What a provider says it counted: of a day (UTC), perhaps of one model, perhaps of one request.

    `model` is empty when the export is not by model, `generation_id` when it is not by request. `labels` are the
    export's own names of who used it: keys, projects, workspaces.
    """

    day: datetime.date
    model: str = ""
    labels: tuple[str, ...] = ()
    generation_id: str = ""
    measures: dict[str, int] = {}


def measures_of(row: Mapping[str, object], names: Mapping[str, str]) -> dict[str, int]:
    """The counts of a row: `names` maps our measures to its fields; what the row doesn't have is left out."""
    found = {measure: count(row, name) for measure, name in names.items()}
    return {measure: value for measure, value in found.items() if value is not None}


def count(row: Mapping[str, object], name: str) -> int | None:
    """A whole number, also when it is written 3.0; None when there is none. Raises ExportError for anything else."""
    number = _number(row, name)
    if number is None:
        return None
    if number != number.to_integral_value() or not 0 <= number <= _MAX:
        raise ExportError(f"{name} is {number}, which is no count")
    return int(number)


def money(row: Mapping[str, object], name: str, *, unit_nano_usd: int = _NANO) -> int | None:
    """An amount in nano-USD, rounded to the nearest; `unit_nano_usd` is what 1 in the export is worth."""
    number = _number(row, name)
    if number is None:
        return None
    if abs(number) > _MAX // unit_nano_usd:
        raise ExportError(f"{name} is {number}, which is no amount")
    return int((number * unit_nano_usd).to_integral_value(ROUND_HALF_EVEN))


def text(row: Mapping[str, object], name: str) -> str:
    """A text without blanks around it; empty when there is none."""
    value = row.get(name)
    return "" if value is None else str(value).strip()


def texts(row: Mapping[str, object], *names: str) -> tuple[str, ...]:
    """Those of these texts that are there."""
    return tuple(found for name in names if (found := text(row, name)))


def utc_day(row: Mapping[str, object], *names: str) -> datetime.date:
    """The UTC day of the first of these fields that is there: seconds since the epoch, or ISO 8601."""
    for name in names:
        value = text(row, name)
        if value:
            return _day(value, name)
    raise ExportError(f"there is none of {', '.join(names)}")


def _day(value: str, name: str) -> datetime.date:
    try:
        if value.isdigit():
            return datetime.datetime.fromtimestamp(int(value), datetime.UTC).date()
        moment = datetime.datetime.fromisoformat(value)
    except (ValueError, OverflowError, OSError) as error:
        raise ExportError(f"{name} is {value!r}, which is no time") from error
    return moment.date() if moment.tzinfo is None else moment.astimezone(datetime.UTC).date()


def _number(row: Mapping[str, object], name: str) -> Decimal | None:
    value = text(row, name).removeprefix("$")
    if not value:
        return None
    try:
        number = Decimal(value)
    except InvalidOperation as error:
        raise ExportError(f"{name} is {value!r}, which is no number") from error
    if not number.is_finite():
        raise ExportError(f"{name} is {value!r}, which is no number")
    return number
