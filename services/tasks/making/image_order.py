"""An image request's body: what of it matters to tasks, and the most that it can use. Pure."""

import dataclasses
from typing import Any

from pricing.tokens import Units
from services.tasks.making.order_body import invalid, read, refuse_unpriced
from upstream.openai.image_fields import ImageFields


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ImageOrder:
    """How many images of what, and the whole body for the provider."""

    prompt: str
    images: int
    fields: dict[str, Any]
    size: str | None = None
    quality: str | None = None

    @property
    def most(self) -> Units:
        """One request for so many images."""
        return Units(requests=1, images=self.images)

    def output_tokens(self, max_output: int) -> int:
        """Each image is an answer."""
        return self.images * max_output


def parse(body: bytes) -> ImageOrder:
    """Reads the JSON body. Raises INVALID_REQUEST with `param`."""
    image, fields = read(body, ImageFields)
    problem = image.problem()
    if problem is not None:
        raise invalid(problem[0], f"is wrong: {problem[1]}")
    refuse_unpriced(fields)
    return ImageOrder(prompt=image.prompt, images=image.images, fields=fields, size=image.size, quality=image.quality)
