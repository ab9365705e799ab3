"""The fields of a video request, as OpenAI's clients send them, with what each may be.

Which lengths and sizes a model knows is its provider's to say. Fields that are not here are handed on as they are.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

from upstream.openai.videos import DATA_URL, reference_file

DEFAULT_SECONDS = 4
MAX_SECONDS = 60
DEFAULT_SIZE = "720x1280"
MAX_PROMPT_CHARACTERS = 32_000
SIZE = r"^[1-9][0-9]{1,3}x[1-9][0-9]{1,3}$(?!\n)"
"""Python's `$` alone would let a line's end follow."""
_SECONDS = r"^[1-9][0-9]?$"


class Reference(msgspec.Struct, frozen=True, kw_only=True):
    """The picture that a video begins with, as a data URL of a PNG, JPEG or WebP."""

    image_url: str


class VideoFields(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be filmed. Null is the same as left out."""

    prompt: Annotated[str, Meta(min_length=1, max_length=MAX_PROMPT_CHARACTERS)]
    seconds: Annotated[str, Meta(pattern=_SECONDS)] | Annotated[int, Meta(ge=1, le=MAX_SECONDS)] | None = None
    size: Annotated[str, Meta(pattern=SIZE, description="`720x1280`, width first")] | None = None
    input_reference: Reference | None = None
    user: str | None = None

    @property
    def length_s(self) -> int:
        """How long it is to be."""
        return int(self.seconds or DEFAULT_SECONDS)

    @property
    def picture_size(self) -> str:
        """How large it is to be."""
        return self.size or DEFAULT_SIZE

    def problem(self) -> tuple[str, str] | None:
        """A field that can't be, and why; None when all is well."""
        if self.length_s > MAX_SECONDS:
            return "seconds", f"at most {MAX_SECONDS}"
        reference = self.input_reference
        if reference is None:
            return None
        if not DATA_URL.match(reference.image_url):
            return "input_reference", "image_url is a data URL of a PNG, JPEG or WebP; no other is fetched"
        if reference_file({"image_url": reference.image_url}) is None:
            return "input_reference", "image_url holds no base64"
        return None
