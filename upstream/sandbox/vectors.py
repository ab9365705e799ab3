"""The sandbox's embeddings: vectors of unit length made from a hash of the text, the same for the same text always.

They say nothing of what a text means, so that nobody mistakes them for a model's.
"""

import base64
import hashlib
import math
import struct
from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec

from upstream.sandbox.script import Script

DEFAULT_DIMENSIONS = 256
MOST_DIMENSIONS = 4096
MOST_TEXTS = 2048
MOST_NUMBERS = 1 << 20
"""In one answer: they are made one by one, in this process."""
_Tokens = list[int]


class EmbeddingsRequest(msgspec.Struct, frozen=True):
    """An embeddings request, as far as the sandbox reads it."""

    model: str
    input: str | list[str | int | _Tokens]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, msgspec.Meta(ge=1, le=MOST_DIMENSIONS)] | None = None

    @property
    def is_too_much(self) -> bool:
        """Whether it asks for more than is made here."""
        texts = len(self.texts)
        return texts > MOST_TEXTS or texts * (self.dimensions or DEFAULT_DIMENSIONS) > MOST_NUMBERS

    @property
    def texts(self) -> Sequence[str]:
        """What each vector is made of; tokens stand for themselves."""
        if isinstance(self.input, str):
            return [self.input]
        if all(isinstance(each, int) for each in self.input):
            return [" ".join(map(str, self.input))]
        return [each if isinstance(each, str) else " ".join(map(str, _as_tokens(each))) for each in self.input]


def embeddings_answer(request: EmbeddingsRequest, script: Script) -> bytes:
    """The answer in OpenAI's shape. A word is a token. Blocks for as long as a second for the most numbers."""
    dimensions = request.dimensions or DEFAULT_DIMENSIONS
    as_base64 = request.encoding_format == "base64"
    data = [
        {"object": "embedding", "index": index, "embedding": _written(vector(text, dimensions), as_base64=as_base64)}
        for index, text in enumerate(request.texts)
    ]
    said = script.prompt_tokens
    prompt = sum(len(text.split()) for text in request.texts) if said is None else said
    usage = {"usage": {"prompt_tokens": prompt, "total_tokens": prompt}} if script.usage else {}
    return msgspec.json.encode({"object": "list", "data": data, "model": request.model, **usage})


def vector(text: str, dimensions: int) -> Sequence[float]:
    """A vector of unit length."""
    stretched = hashlib.shake_256(text.encode("utf-8", "replace")).digest(2 * dimensions)
    numbers = [number / 32768 for (number,) in struct.iter_unpack("<h", stretched)]
    length = math.hypot(*numbers) or 1.0
    return [number / length for number in numbers]


def _written(numbers: Sequence[float], *, as_base64: bool) -> str | Sequence[float]:
    if not as_base64:
        return numbers
    return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()


def _as_tokens(each: int | _Tokens) -> _Tokens:
    return [each] if isinstance(each, int) else each
