"""The sandbox's images: test cards in the size and format that are asked for, their colours made from the prompt."""

import base64
from typing import Annotated

import msgspec

from upstream.pictures import Wish, card, packed, wish_of
from upstream.sandbox.script import Script


class ImageRequest(msgspec.Struct, frozen=True):
    """An image request, as far as the sandbox reads it."""

    model: str
    prompt: str
    n: Annotated[int, msgspec.Meta(ge=1, le=10)] | None = None
    size: str | None = None
    output_format: str | None = None
    output_compression: int | None = None
    background: str | None = None

    def wish(self) -> Wish:
        """What each image is to be. Raises WrongWish."""
        return wish_of(
            size=self.size,
            output_format=self.output_format,
            output_compression=self.output_compression,
            background=self.background,
        )


def image_answer(request: ImageRequest, wish: Wish, script: Script, *, created: int) -> bytes:
    """OpenAI's answer. Its usage is what the script says, as image models have it that are sold by tokens; blocks."""
    images = [
        {"b64_json": base64.b64encode(packed(card(f"{request.prompt}/{index}", wish.size), wish)).decode()}
        for index in range(request.n or 1)
    ]
    answer: dict[str, object] = {"created": created, "data": images, "output_format": wish.format}
    if script.prompt_tokens is not None or script.output_tokens is not None:
        answer["usage"] = _usage(script.prompt_tokens or 0, script.output_tokens or 0)
    return msgspec.json.encode(answer)


def _usage(input_tokens: int, output_tokens: int) -> dict[str, object]:
    return {
        "input_tokens": input_tokens,
        "output_tokens": output_tokens,
        "total_tokens": input_tokens + output_tokens,
        "input_tokens_details": {"text_tokens": input_tokens, "image_tokens": 0},
        "output_tokens_details": {"text_tokens": 0, "image_tokens": output_tokens},
    }
