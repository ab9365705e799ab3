"""Usage blocks in one normal form: each token in one class, and nothing believed that can't be."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import asdict, replace

from pricing.tokens import MAX_COUNT, ImplausibleUsage, Tokens, Units, from_anthropic, from_openai
from tests.unit.pricing.strategies import tokens

JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=5,
)
OPENAI_NAMES = (
    "prompt_tokens",
    "completion_tokens",
    "prompt_tokens_details",
    "completion_tokens_details",
    "prompt_cache_hit_tokens",
    "cached_tokens",
    "reasoning_tokens",
)
ANTHROPIC_NAMES = (
    "input_tokens",
    "output_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "cache_creation",
    "output_tokens_details",
)


@given(tokens())
@settings(max_examples=100)
def test_classes_sum(used: Tokens) -> None:
    """Prompt and completion are the sums of their classes; reasoning is inside output."""
    counts = asdict(used)
    reasoning = counts.pop("reasoning")
    assert sum(counts.values()) == used.prompt + used.completion
    assert reasoning <= used.output


@given(tokens())
@settings(max_examples=100)
def test_openai_totals_survive(used: Tokens) -> None:
    """What OpenAI calls prompt and completion is what the classes sum up to, details and all."""
    used = replace(used, cache_write_1h=0, image_input=0)
    usage = {
        "prompt_tokens": used.prompt,
        "completion_tokens": used.completion,
        "total_tokens": used.prompt + used.completion,
        "prompt_tokens_details": {
            "cached_tokens": used.cached_input,
            "cache_write_tokens": used.cache_write,
            "audio_tokens": used.audio_input,
        },
        "completion_tokens_details": {"reasoning_tokens": used.reasoning, "audio_tokens": used.audio_output},
    }
    assert from_openai(usage) == used


@given(tokens())
@settings(max_examples=100)
def test_anthropic_counts_stand_side_by_side(used: Tokens) -> None:
    """Cache reads and writes are beside the input there, and the hour's writes are a part of the writes."""
    used = replace(used, audio_input=0, audio_output=0, image_input=0)
    usage = {
        "input_tokens": used.input,
        "cache_read_input_tokens": used.cached_input,
        "cache_creation_input_tokens": used.cache_write + used.cache_write_1h,
        "cache_creation": {
            "ephemeral_5m_input_tokens": used.cache_write,
            "ephemeral_1h_input_tokens": used.cache_write_1h,
        },
        "output_tokens": used.output,
        "output_tokens_details": {"thinking_tokens": used.reasoning},
    }
    assert from_anthropic(usage) == used


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": 10, "completion_tokens": 2}, Tokens(input=10, output=2)),
        ({"prompt_tokens": 10}, Tokens(input=10)),
        ({}, Tokens()),
        (
            {"prompt_tokens": 10, "completion_tokens": 2, "prompt_tokens_details": None},
            Tokens(input=10, output=2),
        ),
        (  # DeepSeek
            {
                "prompt_tokens": 10,
                "completion_tokens": 2,
                "prompt_cache_hit_tokens": 4,
                "prompt_cache_miss_tokens": 6,
            },
            Tokens(input=6, cached_input=4, output=2),
        ),
        (  # DeepSeek with OpenAI's details too: the same tokens once
            {
                "prompt_tokens": 10,
                "completion_tokens": 2,
                "prompt_cache_hit_tokens": 4,
                "prompt_tokens_details": {"cached_tokens": 4},
            },
            Tokens(input=6, cached_input=4, output=2),
        ),
        (  # details that leave it null
            {
                "prompt_tokens": 10,
                "completion_tokens": 2,
                "prompt_cache_hit_tokens": 4,
                "prompt_tokens_details": {"cached_tokens": None},
            },
            Tokens(input=6, cached_input=4, output=2),
        ),
        (  # a provider whose reasoning count is not inside its completion count
            {"prompt_tokens": 1, "completion_tokens": 2, "completion_tokens_details": {"reasoning_tokens": 9}},
            Tokens(input=1, output=2, reasoning=2),
        ),
    ],
)
def test_openai_variants(usage: dict[str, Any], expected: Tokens) -> None:
    """The forms that compatible providers really send."""
    assert from_openai(usage) == expected


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"input_tokens": 3, "output_tokens": 4}, Tokens(input=3, output=4)),
        (
            {"input_tokens": 3, "output_tokens": 4, "cache_creation_input_tokens": 5, "cache_creation": None},
            Tokens(input=3, cache_write=5, output=4),
        ),
        (  # only the details
            {
                "input_tokens": 3,
                "output_tokens": 4,
                "cache_creation": {"ephemeral_5m_input_tokens": 1, "ephemeral_1h_input_tokens": 2},
            },
            Tokens(input=3, cache_write=1, cache_write_1h=2, output=4),
        ),
    ],
)
def test_anthropic_variants(usage: dict[str, Any], expected: Tokens) -> None:
    """The forms that Anthropic's API has had."""
    assert from_anthropic(usage) == expected


@pytest.mark.parametrize("count", [-1, MAX_COUNT + 1, 10**30, -(10**30), 1.0, float("nan"), "5", True, [], {}])
def test_counts_that_cannot_be_are_refused(count: object) -> None:
    """Negative, huge and non-integer counts raise, wherever they stand; they are never clipped."""
    for name in ("prompt_tokens", "completion_tokens"):
        with pytest.raises(ImplausibleUsage):
            from_openai({name: count})
    with pytest.raises(ImplausibleUsage):
        from_openai({"prompt_tokens": 5, "prompt_tokens_details": {"cached_tokens": count}})
    for name in ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"):
        with pytest.raises(ImplausibleUsage):
            from_anthropic({name: count})
    for kind in (Tokens, Units):
        for name in kind.__struct_fields__:
            with pytest.raises(ImplausibleUsage):
                kind(**{name: count})


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": 5, "prompt_tokens_details": {"cached_tokens": 6}},
        {"prompt_tokens": 5, "prompt_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 3}},
        {"prompt_tokens": 5, "prompt_cache_hit_tokens": 6},
        {"completion_tokens": 5, "completion_tokens_details": {"audio_tokens": 6}},
    ],
)
def test_parts_beyond_their_whole_are_refused(usage: dict[str, Any]) -> None:
    """Details that exceed their total can't be."""
    with pytest.raises(ImplausibleUsage):
        from_openai(usage)


def test_hour_writes_beyond_all_writes_are_refused() -> None:
    """The hour's cache writes are a part of all cache writes."""
    with pytest.raises(ImplausibleUsage):
        from_anthropic({"cache_creation_input_tokens": 1, "cache_creation": {"ephemeral_1h_input_tokens": 2}})
    with pytest.raises(ImplausibleUsage):
        Tokens(output=1, reasoning=2)


@given(st.dictionaries(st.sampled_from(OPENAI_NAMES), JSON), st.dictionaries(st.sampled_from(ANTHROPIC_NAMES), JSON))
@settings(max_examples=100)
def test_any_json_gives_tokens_or_is_refused(openai: dict[str, Any], anthropic: dict[str, Any]) -> None:
    """No usage block of any shape raises anything else."""
    for read, usage in ((from_openai, openai), (from_anthropic, anthropic)):
        try:
            used = read(usage)
        except ImplausibleUsage:
            continue
        assert used.prompt >= 0
        assert used.completion >= 0
