"""Of several prices the one that says most of what is made counts."""

import pytest

from pricing.variants import chosen, parts

TABLE = {"1024x1024/high": 4, "1024x1024": 3, "high": 2}


@pytest.mark.parametrize(
    ("size", "quality", "expected"),
    [
        ("1024x1024", "high", 4),
        ("1024x1024", "low", 3),
        ("1024x1024", None, 3),
        ("512x512", "high", 2),
        (None, "high", 2),
        ("512x512", "low", None),
        ("auto", "auto", None),
        (None, None, None),
    ],
)
def test_the_price_that_says_most_counts(size: str | None, quality: str | None, expected: int | None) -> None:
    """Size and quality, then the size, then the quality."""
    assert chosen(TABLE, size=size, quality=quality) == expected


def test_a_name_says_size_and_quality() -> None:
    """Either, or both."""
    assert [parts(name) for name in TABLE] == [("1024x1024", "high"), ("1024x1024", None), (None, "high")]
