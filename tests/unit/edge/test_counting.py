"""Counts that stand in for a provider's: by class where it has said so much, never beyond what was reserved."""

import pytest

from pricing.tokens import Tokens
from services.edge.counting import counted
from upstream.usage import Captured, UsageLimits

BODY = b'{"model":"m","messages":[{"role":"user","content":"hello world"}]}'
LIMITS = UsageLimits(max_input=1000, max_output=5)


@pytest.mark.parametrize(
    ("so_far", "text", "expected"),
    [
        (Tokens(input=10, cached_input=90, cache_write=7, output=1), "hello world", (10, 90, 7, 2)),
        (None, "hello world", (6, 0, 0, 2)),
        (None, "one two three four five six seven eight", (6, 0, 0, 5)),
    ],
)
async def test_input_keeps_the_classes_that_the_provider_named(
    so_far: Tokens | None, text: str, expected: tuple[int, int, int, int]
) -> None:
    """A stream that is cut after its start is charged its cache reads as cache reads, and its output as counted."""
    captured = Captured(so_far=so_far)
    use = await counted(body=BODY, text=lambda: text, provider_model="m", captured=captured, limits=LIMITS)
    tokens = use.tokens
    assert (tokens.input, tokens.cached_input, tokens.cache_write, tokens.output) == expected
