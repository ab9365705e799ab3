"""The local renderer speaks OpenAI's image endpoint, and draws the same picture for the same words."""

import base64
import io
from collections.abc import AsyncIterator
from typing import Any

import pytest
from PIL import Image

from tests.unit.upstream.local.house import House, house
from upstream.local.pictures import landscape


@pytest.fixture
async def models() -> AsyncIterator[House]:
    """A server."""
    async with house() as running:
        yield running


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
async def test_a_picture_comes_in_the_size_and_format_asked_for(models: House, output_format: str) -> None:
    """Without a key and without any model being loaded."""
    body = {"model": "x", "prompt": "a lake at dusk", "n": 2, "size": "160x96", "output_format": output_format}
    status, answer = await models.post("/images/generations", body)
    assert status == 200, answer
    assert len(answer["data"]) == 2
    for each in answer["data"]:
        picture = Image.open(io.BytesIO(base64.b64decode(each["b64_json"])))
        picture.load()
        assert (picture.format, picture.size) == (output_format.upper(), (160, 96))
    assert not models.loads


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"n": 5}, "n"),
        ({"size": "big"}, "size"),
        ({"size": "4096x4096"}, "size"),
        ({"output_format": "bmp"}, "output_format"),
        ({"output_compression": 101}, "output_compression"),
        ({"background": "red"}, "background"),
    ],
)
async def test_what_it_cannot_draw_is_refused_by_name(models: House, fields: dict[str, Any], param: str) -> None:
    """400 in OpenAI's shape."""
    status, answer = await models.post("/images/generations", {"prompt": "x", **fields})
    assert (status, answer["error"]["param"]) == (400, param)


def test_words_change_the_picture_and_chance_does_not() -> None:
    """Night is darker than snow by day; the same words are the same pixels."""
    night, snow = landscape("a night in the forest", (64, 64)), landscape("snow on a sunny day", (64, 64))
    assert _brightness(night) < _brightness(snow)
    assert night.tobytes() == landscape("a night in the forest", (64, 64)).tobytes()
    assert night.tobytes() != landscape("a night in the forest", (64, 64), variant=1).tobytes()


def _brightness(picture: Image.Image) -> int:
    (pixel,) = list(picture.convert("L").resize((1, 1)).tobytes())
    return pixel
