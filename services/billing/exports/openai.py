"""OpenAI: pages of the organization's usage and costs API, and the CSV files of its usage page.

`input_tokens` contains what was cached and what was audio, so it is our `prompt`; the CSV files have the names of the
API, flattened (`amount_value`). A cost's line item is "<model>, <what>", or something that is no model.
"""

from collections.abc import Iterator, Mapping

from services.billing.exports import line
from services.billing.exports.line import ExportError, ExportLine

_MEASURES = {
    line.REQUESTS: "num_model_requests",
    "prompt": "input_tokens",
    "cached_input": "input_cached_tokens",
    "cache_write": "input_cache_write_tokens",
    "audio_input": "input_audio_tokens",
    "completion": "output_tokens",
    "audio_output": "output_audio_tokens",
    "images": "images",
    "characters": "characters",
}


def from_page(page: Mapping[str, object]) -> Iterator[ExportLine]:
    """The lines of one page: each bucket's results, or an empty line that says that the bucket's day is covered."""
    buckets = page.get("data")
    if not isinstance(buckets, list):
        raise ExportError("a page has no list `data`")
    for bucket in buckets:
        results = bucket.get("results") if isinstance(bucket, Mapping) else None
        if not isinstance(results, list) or not all(isinstance(each, Mapping) for each in results):
            raise ExportError("a bucket has no list `results`")
        for result in results or [{}]:
            yield from_row({**result, **{name: bucket.get(name) for name in ("start_time", "end_time")}})


def from_row(row: Mapping[str, object]) -> ExportLine:
    """A line of the CSV, or one result with its bucket's time."""
    measures = line.measures_of(row, _MEASURES)
    amount = row.get("amount")
    cost = line.money(amount, "value") if isinstance(amount, Mapping) else line.money(row, "amount_value")
    if cost is not None:
        _check_currency(amount if isinstance(amount, Mapping) else row)
        measures = {line.COST: cost}
    return ExportLine(
        day=line.utc_day(row, "start_time", "start_time_iso"),
        model=line.text(row, "model") or line.text(row, "line_item").partition(",")[0].strip(),
        labels=line.texts(row, "api_key_id", "api_key_name", "project_id", "project_name"),
        measures=measures,
    )


def _check_currency(row: Mapping[str, object]) -> None:
    currency = line.text(row, "currency") or line.text(row, "amount_currency")
    if currency.lower() not in {"", "usd"}:
        raise ExportError(f"the amounts are in {currency}, not in usd")
