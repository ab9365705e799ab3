"""Usage exports of the three providers are read as they come, and what can't be understood is refused whole."""

import datetime
import json
from pathlib import Path

import pytest

from services.billing.exports.line import ExportError, ExportLine
from services.billing.exports.reading import read

DAY = datetime.date(2026, 11, 20)
START = 1795132800  # 2026-11-20T00:00:00Z


def _read(tmp_path: Path, provider: str, *contents: object) -> list[ExportLine]:
    paths = []
    for number, content in enumerate(contents):
        path = tmp_path / f"export-{number}"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        paths.append(path)
    return read(paths, provider=provider)


def _bucket(*results: dict[str, object], start: int = START) -> dict[str, object]:
    return {"object": "bucket", "start_time": start, "end_time": start + 86400, "results": list(results)}


def _page(*buckets: dict[str, object], more: bool = False) -> dict[str, object]:
    return {"object": "page", "data": list(buckets), "has_more": more, "next_page": "x" if more else None}


def test_openai_usage_pages_are_read(tmp_path: Path):
    """Totals stay totals, absent fields stay absent, and an empty bucket still says that its day is covered."""
    result = {
        "object": "organization.usage.completions.result",
        "input_tokens": 1000,
        "output_tokens": 500,
        "input_cached_tokens": 800,
        "num_model_requests": 5,
        "project_id": "proj_1",
        "api_key_id": "key_1",
        "model": "gpt-5.4-mini-2026-03-17",
        "batch": None,
    }
    lines = _read(tmp_path, "openai", _page(_bucket(result), more=True), _page(_bucket(start=START + 86400)))
    assert lines == [
        ExportLine(
            day=DAY,
            model="gpt-5.4-mini-2026-03-17",
            labels=("key_1", "proj_1"),
            measures={"requests": 5, "prompt": 1000, "cached_input": 800, "completion": 500},
        ),
        ExportLine(day=DAY + datetime.timedelta(days=1)),
    ]


def test_openai_costs_are_exact(tmp_path: Path):
    """Amounts are read as decimals, to the nano-dollar; a line item names its model."""
    result = {
        "object": "organization.costs.result",
        "amount": {"value": 0.1, "currency": "usd"},
        "line_item": "gpt-5.4-mini-2026-03-17, input",
    }
    assert _read(tmp_path, "openai", _page(_bucket(result))) == [
        ExportLine(day=DAY, model="gpt-5.4-mini-2026-03-17", measures={"cost_nano_usd": 100_000_000})
    ]


def test_openai_csv_has_the_names_of_the_api(tmp_path: Path):
    """Both files of the usage page, counts written 3.0 too."""
    usage = (
        "start_time,end_time,start_time_iso,end_time_iso,project_id,num_model_requests,user_id,api_key_id,model,batch,"
        "service_tier,input_tokens,output_tokens,input_cached_tokens,input_uncached_tokens\n"
        f"{START},{START + 60},2026-11-20T00:00:00+00:00,2026-11-20T00:01:00+00:00,proj_1,3.0,,key_1,gpt-5,,,"
        "4212,1673,0,4212\n"
        f"{START + 60},{START + 120},2026-11-20T00:01:00+00:00,2026-11-20T00:02:00+00:00,,,,,,,,,,,\n"
    )
    costs = (
        "start_time,end_time,start_time_iso,end_time_iso,amount_value,amount_currency,line_item,project_id\n"
        f"{START},{START + 86400},2026-11-20T00:00:00+00:00,2026-11-21T00:00:00+00:00,0.8958740000000000,usd,,\n"
    )
    assert _read(tmp_path, "openai", usage, costs) == [
        ExportLine(
            day=DAY,
            model="gpt-5",
            labels=("key_1", "proj_1"),
            measures={"requests": 3, "prompt": 4212, "cached_input": 0, "completion": 1673},
        ),
        ExportLine(day=DAY),
        ExportLine(day=DAY, measures={"cost_nano_usd": 895_874_000}),
    ]


def test_anthropic_reports_are_read(tmp_path: Path):
    """Every cache class stands for itself, and the API's amounts are cents."""
    bucket = {"starting_at": "2026-11-20T00:00:00Z", "ending_at": "2026-11-21T00:00:00Z"}
    usage = {
        "uncached_input_tokens": 1500,
        "cache_creation": {"ephemeral_1h_input_tokens": 1000, "ephemeral_5m_input_tokens": 500},
        "cache_read_input_tokens": 200,
        "output_tokens": 300,
        "server_tool_use": {"web_search_requests": 0},
        "api_key_id": "apikey_1",
        "workspace_id": None,
        "model": "claude-haiku-4-5-20251001",
    }
    cost = {"currency": "USD", "amount": "123.78912", "workspace_id": "wrkspc_1", "model": None}
    pages = [{"data": [{**bucket, "results": [each]}], "has_more": False} for each in (usage, cost)]
    assert _read(tmp_path, "anthropic", *pages) == [
        ExportLine(
            day=DAY,
            model="claude-haiku-4-5-20251001",
            labels=("apikey_1",),
            measures={"input": 1500, "cached_input": 200, "output": 300, "cache_write": 500, "cache_write_1h": 1000},
        ),
        ExportLine(day=DAY, labels=("wrkspc_1",), measures={"cost_nano_usd": 1_237_891_200}),
    ]


def test_anthropic_csv_files_are_read(tmp_path: Path):
    """The console's token file and its cost file."""
    tokens = (
        "usage_date_utc,model_version,api_key,workspace,usage_type,context_window,usage_input_tokens_no_cache,"
        "usage_input_tokens_cache_write_5m,usage_input_tokens_cache_write_1h,usage_input_tokens_cache_read,"
        "usage_output_tokens,web_search_count\n"
        "2026-11-20,claude-opus-5,my key,Default,standard,≤ 200k,46981,15969,0,7,16932,0\n"
    )
    costs = (
        "usage_date_utc,model,workspace,api_key,usage_type,context_window,token_type,cost_usd,cost_type\n"
        "2026-11-20,Claude Opus 5,Default,my key,message,≤ 200k,input_no_cache,0.234905,token\n"
    )
    assert _read(tmp_path, "anthropic", tokens, costs) == [
        ExportLine(
            day=DAY,
            model="claude-opus-5",
            labels=("my key", "Default"),
            measures={
                "input": 46981,
                "cached_input": 7,
                "cache_write": 15969,
                "cache_write_1h": 0,
                "output": 16932,
            },
        ),
        ExportLine(
            day=DAY, model="Claude Opus 5", labels=("my key", "Default"), measures={"cost_nano_usd": 234_905_000}
        ),
    ]


def test_openrouter_activity_and_generations_are_read(tmp_path: Path):
    """Days have no ids; generations do, count one request each, and their native counts are the billed ones."""
    day = {
        "date": "2026-11-20",
        "model": "openai/gpt-4.1",
        "model_permaslug": "openai/gpt-4.1-2025-04-14",
        "endpoint_id": "e",
        "usage": 0.015,
        "byok_usage_inference": 0.012,
        "requests": 5,
        "prompt_tokens": 50,
        "completion_tokens": 125,
        "reasoning_tokens": 25,
    }
    stats = {
        "id": "gen-1",
        "model": "openai/gpt-4.1",
        "created_at": "2026-11-20T23:59:59.5Z",
        "tokens_prompt": 10,
        "native_tokens_prompt": 12,
        "native_tokens_completion": 3,
        "native_tokens_cached": None,
        "total_cost": 1.2e-06,
    }
    log = (
        "generation_id,created_at,cost_total,tokens_prompt,tokens_completion,tokens_reasoning,tokens_cached,"
        "model_permaslug,api_key_name\n"
        "gen-2,2026-11-20 03:46:57.713,0.0123,10389,137,0,9,openai/gpt-4.1-2025-04-14,prod\n"
    )
    assert _read(tmp_path, "openrouter", {"data": stats}, log) == [
        ExportLine(
            day=DAY,
            model="openai/gpt-4.1",
            generation_id="gen-1",
            measures={"requests": 1, "prompt": 12, "completion": 3, "cost_nano_usd": 1200},
        ),
        ExportLine(
            day=DAY,
            model="openai/gpt-4.1-2025-04-14",
            labels=("prod",),
            generation_id="gen-2",
            measures={
                "requests": 1,
                "prompt": 10389,
                "completion": 137,
                "reasoning": 0,
                "cached_input": 9,
                "cost_nano_usd": 12_300_000,
            },
        ),
    ]
    assert _read(tmp_path, "openrouter", {"data": [day]}) == [
        ExportLine(
            day=DAY,
            model="openai/gpt-4.1",
            labels=("e",),
            measures={
                "requests": 5,
                "prompt": 50,
                "completion": 125,
                "reasoning": 25,
                "cost_nano_usd": 15_000_000,
            },
        ),
    ]


_LOG = "generation_id,created_at,model_permaslug,cost_total\n"


@pytest.mark.parametrize(
    ("provider", "contents", "named"),
    [
        ("openai", [_page(_bucket()), _page(_bucket())], "counted twice"),
        ("openai", ["hello"], "neither JSON nor a CSV"),
        ("openai", ['{"data": ['], "no JSON"),
        ("openai", ['{"error": {}}'], "no list `data`"),
        ("openai", [_page(_bucket(), more=True)], "not whole"),
        ("openai", [_page(_bucket({"input_tokens": -1}))], "no count"),
        ("openai", [_page(_bucket({"input_tokens": 1.5}))], "no count"),
        ("openai", [_page(_bucket({"amount": {"value": 1, "currency": "eur"}}))], "in eur"),
        ("openrouter", [_LOG + "gen-1,2026-11-20,m,NaN\n"], "line 2: cost_total"),
        ("openrouter", [_LOG + "gen-1,yesterday,m,1\n"], "no time"),
        ("openrouter", [_LOG + "gen-1,2026-11-20,m\n"], "columns of the first line"),
        ("openrouter", [_LOG + "gen-1,2026-11-20,m,1\ngen-1,2026-11-20,m,2\n"], "listed twice"),
    ],
)
def test_what_is_no_export_is_refused(tmp_path: Path, provider: str, contents: list[object], named: str):
    """Half an export would show drift that isn't there."""
    with pytest.raises(ExportError, match=named):
        _read(tmp_path, provider, *contents)


def test_sums_and_lists_of_the_same_requests_are_not_added_up(tmp_path: Path):
    """A day's activity beside the generations of that day would count each of them twice."""
    day = {"date": "2026-11-20", "model": "m", "requests": 1}
    with pytest.raises(ExportError, match="count the same requests"):
        _read(tmp_path, "openrouter", _LOG + "gen-1,2026-11-20,m,1\n", {"data": [day]})
