"""OpenRouter: the activity of days (JSON or CSV), the log of its activity page (CSV, a line per generation), and the
stats of single generations (JSON).

Prompt tokens contain cached ones and completion tokens contain reasoning. The provider's own (`native`) counts are
taken where they stand beside normalised ones: they are what is billed.
"""

from collections.abc import Iterator, Mapping

from services.billing.exports import line
from services.billing.exports.line import ExportError, ExportLine

_ACTIVITY = {
    line.REQUESTS: "requests",
    "prompt": "prompt_tokens",
    "completion": "completion_tokens",
    "reasoning": "reasoning_tokens",
}
_LOG = {
    "prompt": "tokens_prompt",
    "completion": "tokens_completion",
    "reasoning": "tokens_reasoning",
    "cached_input": "tokens_cached",
}
_STATS = {measure: f"native_{name}" for measure, name in _LOG.items()}


def from_page(page: Mapping[str, object]) -> Iterator[ExportLine]:
    """The lines of an answer: a list of days, or one generation."""
    data = page.get("data", page)
    rows = data if isinstance(data, list) else [data]
    for row in rows:
        if not isinstance(row, Mapping):
            raise ExportError("a row is no object")
        yield from_row(row)


def from_row(row: Mapping[str, object]) -> ExportLine:
    """A row of any of the files: what it is shows in its fields."""
    generation_id = line.text(row, "generation_id") or line.text(row, "id")
    if not generation_id:
        return _line(row, line.measures_of(row, _ACTIVITY), cost=line.money(row, "usage"))
    measures = {line.REQUESTS: 1, **line.measures_of(row, _LOG), **line.measures_of(row, _STATS)}
    cost = line.money(row, "cost_total")
    return _line(row, measures, cost=line.money(row, "total_cost") if cost is None else cost, id_=generation_id)


def _line(row: Mapping[str, object], measures: dict[str, int], *, cost: int | None, id_: str = "") -> ExportLine:
    return ExportLine(
        day=line.utc_day(row, "date", "created_at"),
        model=line.text(row, "model") or line.text(row, "model_permaslug"),
        labels=line.texts(row, "api_key_name", "endpoint_id"),
        generation_id=id_,
        measures=measures if cost is None else {**measures, line.COST: cost},
    )
