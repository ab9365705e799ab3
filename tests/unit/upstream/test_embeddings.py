"""Embeddings as they come back: in the format that was asked for, whatever the provider knows of formats."""

import base64
import json
import struct
from typing import Any

import pytest

from pricing.tokens import Tokens
from upstream.openai.embeddings import read_answer

NUMBERS = [0.25, -0.5, 1]
WRITTEN = base64.b64encode(struct.pack("<3f", *NUMBERS)).decode()


def shown(embedding: object, *, as_base64: bool) -> Any:
    data = [{"object": "embedding", "index": 0, "embedding": embedding}]
    body = json.dumps({"object": "list", "data": data, "usage": {"prompt_tokens": 3, "total_tokens": 3}})
    answer = read_answer(body.encode(), model="public", as_base64=as_base64)
    (found,) = json.loads(answer.render(tokens=Tokens(input=3), cost=None))["data"]
    assert (found["object"], found["index"]) == ("embedding", 0)
    return found["embedding"]


@pytest.mark.parametrize(
    ("given", "as_base64", "expected"),
    [
        (NUMBERS, True, WRITTEN),
        (WRITTEN, True, WRITTEN),
        (NUMBERS, False, NUMBERS),
        ([1e300], True, [1e300]),
        ({"odd": 1}, True, {"odd": 1}),
    ],
)
def test_vectors_come_in_the_format_that_was_asked_for(given: object, as_base64: bool, expected: object) -> None:
    """OpenAI's SDK for Node asks for base64 unasked and reads numbers as garbage; what fits no float stays."""
    assert shown(given, as_base64=as_base64) == expected
