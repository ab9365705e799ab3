"""The fields of an image request, as OpenAI's clients send them, with what each may be.

Fields that are not here are handed to the provider as they are.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

MAX_IMAGES = 10
MAX_PROMPT_CHARACTERS = 32_000
SIZE = r"^(auto|[1-9][0-9]{1,3}x[1-9][0-9]{1,3})$(?!\n)"
"""Python's `$` alone would let a line's end follow."""
Format = Literal["png", "jpeg", "webp"]


class ImageFields(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be drawn, and how it comes. Null is the same as left out."""

    prompt: Annotated[str, Meta(min_length=1, max_length=MAX_PROMPT_CHARACTERS)]
    n: Annotated[int, Meta(ge=1, le=MAX_IMAGES)] | None = None
    size: Annotated[str, Meta(pattern=SIZE, description="`1024x1024`, width first, or `auto`")] | None = None
    quality: Literal["auto", "low", "medium", "high", "xhigh", "max", "standard", "hd"] | None = None
    style: Literal["vivid", "natural"] | None = None
    background: Literal["auto", "transparent", "opaque"] | None = None
    moderation: Literal["auto", "low"] | None = None
    response_format: Literal["url", "b64_json"] | None = None
    output_format: Format | None = None
    output_compression: Annotated[int, Meta(ge=0, le=100)] | None = None
    partial_images: Annotated[int, Meta(ge=0, le=3)] | None = None
    stream: bool | None = None
    user: str | None = None

    @property
    def images(self) -> int:
        """How many."""
        return self.n or 1

    def problem(self) -> tuple[str, str] | None:
        """A field that does not go with the others, and why; None when all is well."""
        if self.stream and self.response_format == "url":
            return "response_format", "streamed images are always b64_json"
        if self.background == "transparent" and self.output_format == "jpeg":
            return "background", "a jpeg can't be transparent"
        return None
