"""Counting, estimating and bounding: never less than what can be charged, never what can't be."""

import concurrent.futures
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pricing.tokens import ImplausibleUsage, Tokens
from upstream.openai.usage_block import UsageBlock
from upstream.route import Bounds
from upstream.usage import (
    UsageLimits,
    bound_usage,
    cost_nano_usd,
    count_parts,
    count_tokens,
    estimate_input_tokens,
    usage_limits,
)

BOUNDS = Bounds(template_tokens=7, max_part_tokens=1500, hidden_output=100)


@given(st.text(max_size=300))
@settings(max_examples=60, deadline=None)
def test_no_text_has_more_tokens_than_bytes(text: str) -> None:
    """The estimate of a text is never below its exact count, in any tokenizer that we have."""
    for model in ("gpt-5", "gpt-4-turbo", "deepseek-v4"):
        assert count_tokens(text, model) <= len(text.encode())


def test_counts_are_exact_and_safe_from_threads() -> None:
    """Known texts have known counts, from several threads at once too."""
    assert count_tokens("hello world", "gpt-4o") == 2
    assert count_tokens("", "gpt-4o") == 0
    assert count_tokens("\ud800", "gpt-4o") >= 1
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        counts = set(pool.map(lambda _: count_tokens("The quick brown fox. " * 50, "gpt-4o"), range(16)))
    assert len(counts) == 1


def test_estimates_cover_parts_and_template() -> None:
    """Bytes, the template, and the most that each image or file part can be."""
    assert estimate_input_tokens(b"x" * 10, BOUNDS) == 17
    assert estimate_input_tokens(b"x" * 10, BOUNDS, parts=2) == 3017
    body = b'[{"type":"image_url","image_url":{"url":"https://x"}},{"type":"file","file":{}}]'
    assert estimate_input_tokens(body, BOUNDS) == len(body) + 7 + 2 * 1500


@pytest.mark.parametrize(
    ("body", "parts"),
    [
        (b'[{"type": "image_url", "image_url": {"url": "x"}}]', 1),
        (b'[{"image_url":{"url":"x"}}]', 1),
        (b'[{"type":"image","source":{"type":"url"}},{"type":"document","source":{}}]', 2),
        (b'[{"type":"image\\u005furl","image\\u005furl":{"url":"x"}}]', 1),
        (b'["\\"type\\":\\"image_url\\""]', 0),
        (b'["image_url", "text", {"type":"text","text":"file"}]', 0),
    ],
)
def test_parts_are_found_however_they_are_written(body: bytes, parts: int) -> None:
    """By type or by key, spaced or escaped; text that looks like a part is none."""
    assert count_parts(body) == parts


def test_limits_of_a_request() -> None:
    """Each choice may use its tokens, and the model its hidden ones."""
    limits = usage_limits(BOUNDS, input_tokens=50, max_tokens=10, choices=3)
    assert limits == UsageLimits(max_input=50, max_output=130)
    within = Tokens(input=20, cached_input=30, output=130)
    assert bound_usage(within, limits) is within
    for beyond in (Tokens(input=51), Tokens(output=131), Tokens(output=130, audio_output=1)):
        with pytest.raises(ImplausibleUsage):
            bound_usage(beyond, limits)


@given(st.decimals(min_value=0, max_value=1000, places=12))
def test_reported_costs_are_rounded_up_to_a_nano_dollar(cost: Decimal) -> None:
    """Never less than what was reported, and less than a nano-dollar more."""
    nano = cost_nano_usd({"cost": cost})
    assert nano is not None
    assert 0 <= nano - cost * 1_000_000_000 < 1


def test_costs_are_exact_as_numbers_and_as_texts() -> None:
    """No float comes between: what is written is what counts."""
    for cost in ("0.0123456789", "1.23456789e-2", Decimal("0.0123456789")):
        assert cost_nano_usd({"cost": cost}) == 12_345_679
    block = UsageBlock(None)
    for written, nano in ((b"0.1000000000000000055", 100_000_001), (b"4.35", 4_350_000_000), (b'"2e-9"', 2)):
        block.read(b'{"prompt_tokens":1,"completion_tokens":1,"cost":' + written + b"}")
        assert block.reported_cost_nano_usd == nano
        assert not block.implausible


@pytest.mark.parametrize("cost", [b"-1", b'"NaN"', b"1e30", b"1e99999999999999999999", b'"free"'])
def test_an_impossible_cost_leaves_the_counts_as_they_are(cost: bytes) -> None:
    """The provider's tokens still count; the answer is flagged and its cost forgotten."""
    block = UsageBlock(None)
    block.read(b'{"prompt_tokens":3,"completion_tokens":2,"cost":' + cost + b"}")
    assert block.tokens == Tokens(input=3, output=2)
    assert block.reported_cost_nano_usd is None
    assert block.implausible


def test_absent_costs_are_none_and_absurd_ones_refused() -> None:
    """No number is no cost; a number that no request can cost is implausible."""
    for usage in ({}, {"cost": None}, {"cost": True}, {"cost": {}}):
        assert cost_nano_usd(usage) is None
    for cost in (
        Decimal(-1),
        Decimal("NaN"),
        Decimal("Infinity"),
        Decimal("1e30"),
        Decimal("1e999999"),
        -1,
        10**20,
        "NaN",
        "-1",
        "1e99",
        "",
        "free",
        "1_0",
        " 1",
    ):
        with pytest.raises(ImplausibleUsage):
            cost_nano_usd({"cost": cost})
