"""Anthropic: pages of the usage and cost reports of its admin API, and the CSV files of its console.

Cache reads and writes stand beside the uncached input. The API's amounts are in cents, the console's in dollars, and
the console's cost file names models as they are shown ("Claude Haiku 4.5").
"""

from collections.abc import Iterator, Mapping

from services.billing.exports import line
from services.billing.exports.line import ExportError, ExportLine

_CENT_NANO_USD = 10_000_000
_REPORT = {"input": "uncached_input_tokens", "cached_input": "cache_read_input_tokens", "output": "output_tokens"}
_REPORT_WRITES = {"cache_write": "ephemeral_5m_input_tokens", "cache_write_1h": "ephemeral_1h_input_tokens"}
_CONSOLE = {
    "input": "usage_input_tokens_no_cache",
    "cached_input": "usage_input_tokens_cache_read",
    "cache_write": "usage_input_tokens_cache_write_5m",
    "cache_write_1h": "usage_input_tokens_cache_write_1h",
    "output": "usage_output_tokens",
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
            yield _result({**result, "starting_at": bucket.get("starting_at")})


def from_row(row: Mapping[str, object]) -> ExportLine:
    """A line of either CSV."""
    measures = line.measures_of(row, _CONSOLE)
    cost = line.money(row, "cost_usd")
    return ExportLine(
        day=line.utc_day(row, "usage_date_utc"),
        model=line.text(row, "model_version") or line.text(row, "model"),
        labels=line.texts(row, "api_key_id", "api_key", "workspace"),
        measures=measures if cost is None else {line.COST: cost},
    )


def _result(row: Mapping[str, object]) -> ExportLine:
    writes = row.get("cache_creation")
    measures = line.measures_of(row, _REPORT)
    measures |= line.measures_of(writes if isinstance(writes, Mapping) else {}, _REPORT_WRITES)
    cost = line.money(row, "amount", unit_nano_usd=_CENT_NANO_USD)
    if cost is not None and line.text(row, "currency").lower() not in {"", "usd"}:
        raise ExportError(f"the amounts are in {line.text(row, 'currency')}, not in USD")
    return ExportLine(
        day=line.utc_day(row, "starting_at"),
        model=line.text(row, "model"),
        labels=line.texts(row, "api_key_id", "workspace_id"),
        measures=measures if cost is None else {line.COST: cost},
    )
