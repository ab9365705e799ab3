"""Pictures made here: what the sandbox and the local renderer draw is what was asked for, the same every time."""

import base64
import io
import json
from typing import Any

import pytest
from PIL import Image

from upstream.client import HttpCall, Timeouts
from upstream.openai.images import read_answer
from upstream.pictures import Wish, WrongWish, card, packed, size_of, wish_of
from upstream.sandbox.provider import Sandbox

QUICK = Timeouts(connect_s=1, first_byte_s=1, idle_s=1, total_s=5)


async def drawn(**fields: object) -> tuple[int, dict[str, Any]]:
    """The sandbox's answer to an image request."""
    body = json.dumps({"model": "m", "prompt": "a cat", **fields}).encode()
    call = HttpCall(method="POST", url="sandbox:/images/generations", headers={}, body=body)
    response = await Sandbox().send(call, timeouts=QUICK)
    return response.status, json.loads(await response.read(8_000_000))


def opened(answer: dict[str, Any], index: int = 0) -> Image.Image:
    """One image of an answer, decoded whole."""
    picture = Image.open(io.BytesIO(base64.b64decode(answer["data"][index]["b64_json"])))
    picture.load()
    return picture


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
async def test_the_sandbox_draws_in_the_size_and_format_asked_for(output_format: str) -> None:
    """Real files, the same for the same prompt, different among themselves."""
    fields: dict[str, Any] = {"n": 2, "size": "320x192", "output_format": output_format}
    (status, first), (_, again) = await drawn(**fields), await drawn(**fields)
    assert status == 200
    assert first["data"] == again["data"]
    assert first["data"][0] != first["data"][1]
    for index in range(2):
        picture = opened(first, index)
        assert (picture.format, picture.size) == (output_format.upper(), (320, 192))


async def test_the_sandbox_draws_a_thousand_pixels_square_where_nothing_is_said() -> None:
    """As image models do."""
    _, answer = await drawn(size="auto")
    assert opened(answer).size == (1024, 1024)


async def test_a_transparent_background_is_one() -> None:
    """The corners can be seen through, the middle can't."""
    _, answer = await drawn(size="64x64", background="transparent")
    picture = opened(answer)
    assert (picture.getpixel((0, 0))[3], picture.getpixel((32, 32))[3]) == (0, 255)  # type: ignore[index]  # RGBA


async def test_compression_makes_a_file_smaller() -> None:
    """`output_compression` is how good a jpeg is."""
    sizes = []
    for compression in (10, 90):
        _, answer = await drawn(size="256x256", output_format="jpeg", output_compression=compression)
        sizes.append(len(answer["data"][0]["b64_json"]))
    assert sizes[0] < sizes[1]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"size": "1024"}, "size"),
        ({"size": "8x8"}, "size"),
        ({"size": "9999x9999"}, "size"),
        ({"size": "4096x4096"}, "size"),
        ({"output_format": "gif"}, "output_format"),
        ({"output_compression": 101, "output_format": "webp"}, "output_compression"),
        ({"background": "blue"}, "background"),
        ({"background": "transparent", "output_format": "jpeg"}, "background"),
    ],
)
async def test_what_cannot_be_drawn_is_refused_by_its_field(fields: dict[str, Any], param: str) -> None:
    """Before a pixel is made."""
    status, answer = await drawn(**fields)
    assert status == 400
    assert param in answer["error"]["message"]
    all_fields = {"size": None, "output_format": None, "output_compression": None, "background": None, **fields}
    with pytest.raises(WrongWish) as refused:
        wish_of(**all_fields)
    assert refused.value.param == param


async def test_the_sandbox_reports_tokens_where_it_is_told_to() -> None:
    """For models that are sold by tokens: text in, image out."""
    _, answer = await drawn(prompt='#sandbox {"prompt_tokens": 7, "output_tokens": 1056}', size="16x16")
    tokens = read_answer(json.dumps(answer).encode()).captured.tokens
    assert tokens is not None
    assert (tokens.input, tokens.output) == (7, 1056)


def test_sizes_are_read_as_clients_write_them() -> None:
    """Width first; auto and nothing are the default."""
    assert size_of("1536x1024") == (1536, 1024)
    assert size_of(None) == size_of("auto") == (1024, 1024)
    assert size_of("", default=(720, 1280)) == (720, 1280)


def test_the_same_wish_is_the_same_file() -> None:
    """So that a job that is run twice makes the same."""
    wish = Wish(size=(64, 48), format="webp", quality=80)
    assert packed(card("x", wish.size), wish) == packed(card("x", wish.size), wish)
    assert packed(card("x", wish.size), wish) != packed(card("y", wish.size), wish)
