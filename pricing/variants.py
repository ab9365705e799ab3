"""Prices that depend on what is made: on a picture's size and quality, on a video's size.

A variant is named `1024x1024/high`, `1024x1024` or `high`. Of those that fit, the one that says most counts; of a size
and a quality alone it is the size.
"""

from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")


def chosen(variants: Mapping[str, T], *, size: str | None, quality: str | None) -> T | None:
    """What fits best, None where nothing does."""
    wanted = (f"{size}/{quality}" if size and quality else None, size, quality)
    return next((variants[name] for name in wanted if name is not None and name in variants), None)


def parts(name: str) -> tuple[str | None, str | None]:
    """Size and quality of a variant's name."""
    size, slash, quality = name.partition("/")
    if slash:
        return size, quality
    return (name, None) if name[:1].isdigit() else (None, name)
