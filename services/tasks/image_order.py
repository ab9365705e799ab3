"""An image request's body: what of it matters to tasks, and the most that it can use. Pure.

Edge has validated the body for the client's sake; it is checked again here because other teams call tasks directly
and because `n` decides how much money is held.
"""

import dataclasses
from typing import Any

import msgspec

from chassis.errors import Code, TollbridgeError
from pricing.tokens import Units

MAX_IMAGES = 10
MAX_BODY_BYTES = 20 << 20
MAX_PROMPT_CHARACTERS = 32_000


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ImageOrder:
    """How many images of what, and the whole body for the provider."""

    prompt: str
    images: int
    fields: dict[str, Any]

    @property
    def most(self) -> Units:
        """One request for so many images."""
        return Units(requests=1, images=self.images)

    @property
    def outputs(self) -> int:
        """Each image is an answer."""
        return self.images


def parse(body: bytes) -> ImageOrder:
    """Reads the JSON body. Raises INVALID_REQUEST with `param`."""
    if len(body) > MAX_BODY_BYTES:
        raise TollbridgeError(Code.REQUEST_TOO_LARGE, "The request's body is too large.")
    try:
        fields = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _invalid("body", "is not JSON") from error
    if not isinstance(fields, dict):
        raise _invalid("body", "is not a JSON object")
    prompt, images = fields.get("prompt"), fields.get("n", 1)
    if not isinstance(prompt, str) or not 1 <= len(prompt) <= MAX_PROMPT_CHARACTERS:
        raise _invalid("prompt", f"is 1 to {MAX_PROMPT_CHARACTERS} characters")
    if images is None:
        images = 1
    if not isinstance(images, int) or isinstance(images, bool) or not 1 <= images <= MAX_IMAGES:
        raise _invalid("n", f"is 1 to {MAX_IMAGES}")
    return ImageOrder(prompt=prompt, images=images, fields=fields)


def _invalid(param: str, what: str) -> TollbridgeError:
    return TollbridgeError(Code.INVALID_REQUEST, f"{param} {what}.", details={"param": param})
