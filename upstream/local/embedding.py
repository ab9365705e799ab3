"""The embedding model: WordLlama, 256 numbers for each of 32,000 tokens, of which a text's are averaged.

The first 128 or 64 of them are an embedding by themselves. Good for search and clustering of short English texts at
no cost to speak of; it knows nothing of the order of words.
"""

import base64
import json
import struct
from typing import Any, Protocol

import msgspec

from upstream.local.failure import Refused
from upstream.local.installed import EMBEDDING, folder_of

WAITING = 32
DIMENSIONS = (256, 128, 64)
MAX_TEXTS = 2048
MAX_TOKENS = 8192
_WEIGHTS, _TOKENIZER = "weights/l2_supercat_256.safetensors", "tokenizers/l2_supercat_tokenizer_config.json"
_MAX_HEADER_BYTES = 1 << 20


class Embedder(Protocol):
    """Texts in, rows of DIMENSIONS[0] numbers and the counts of their tokens out."""

    def __call__(self, texts: list[str]) -> tuple[list[list[float]], list[int]]: ...


class EmbeddingRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The fields that count; all others are ignored."""

    input: str | list[str]
    dimensions: int | None = None
    encoding_format: str | None = None

    @property
    def texts(self) -> list[str]:
        """What is to be embedded."""
        return [self.input] if isinstance(self.input, str) else self.input


def load() -> Embedder:
    """Reads the weights; blocks for a part of a second."""
    import numpy
    import tokenizers

    folder = folder_of("wordllama")
    raw = (folder / _WEIGHTS).read_bytes()
    (header_bytes,) = struct.unpack("<Q", raw[:8])
    if header_bytes > _MAX_HEADER_BYTES:
        raise RuntimeError("the weights are no safetensors")
    entry = json.loads(raw[8 : 8 + header_bytes])["embedding.weight"]
    if entry["dtype"] != "F16":
        raise RuntimeError("the weights are of another kind than expected")
    rows, columns = entry["shape"]
    start = 8 + header_bytes + entry["data_offsets"][0]
    table = numpy.frombuffer(raw, dtype="<f2", count=rows * columns, offset=start).reshape(rows, columns).astype("f4")
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / _TOKENIZER))
    tokenizer.no_padding()
    tokenizer.no_truncation()

    def embed(texts: list[str]) -> tuple[list[list[float]], list[int]]:
        vectors, counts = [], []
        for encoded in tokenizer.encode_batch(texts, add_special_tokens=False):
            ids = encoded.ids[: MAX_TOKENS + 1]
            counts.append(len(ids))
            vectors.append(table[ids].mean(axis=0).tolist() if ids else [0.0] * columns)
        return vectors, counts

    return embed


def checked(body: bytes) -> EmbeddingRequest:
    """The request. Raises Refused."""
    try:
        request = msgspec.json.decode(body, type=EmbeddingRequest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        problem = "input is a text or a list of texts: a client's tokens are not this model's."
        raise Refused(400, problem, "input") from None
    if not 1 <= len(request.texts) <= MAX_TEXTS or not all(request.texts):
        raise Refused(400, f"input is 1 to {MAX_TEXTS} texts, none of them empty.", "input")
    if request.dimensions not in (None, *DIMENSIONS):
        raise Refused(400, f"dimensions is one of {', '.join(map(str, DIMENSIONS))}.", "dimensions")
    if request.encoding_format not in (None, "float", "base64"):
        raise Refused(400, "encoding_format is float or base64.", "encoding_format")
    return request


def answer(request: EmbeddingRequest, embed: Embedder) -> dict[str, Any]:
    """OpenAI's answer; blocks. Raises Refused."""
    vectors, counts = embed(request.texts)
    for count in counts:
        if not 1 <= count <= MAX_TOKENS:
            raise Refused(400, f"A text has 1 to {MAX_TOKENS} tokens.", "input")
    size = request.dimensions or DIMENSIONS[0]
    rows = [_unit(vector[:size]) for vector in vectors]
    shown: list[object] = [_base64(row) if request.encoding_format == "base64" else row for row in rows]
    return {
        "object": "list",
        "data": [{"object": "embedding", "index": index, "embedding": row} for index, row in enumerate(shown)],
        "model": EMBEDDING,
        "usage": {"prompt_tokens": sum(counts), "total_tokens": sum(counts)},
    }


def _unit(vector: list[float]) -> list[float]:
    length = sum(number * number for number in vector) ** 0.5
    return [number / length for number in vector] if length else vector


def _base64(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
