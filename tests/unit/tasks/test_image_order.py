"""What an image request must say."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chassis.errors import Code, TollbridgeError
from services.tasks.making import image_order


def test_a_request_without_n_is_for_one_image():
    """As OpenAI has it; null counts as left out."""
    assert image_order.parse(b'{"prompt": "a cat"}').images == 1
    assert image_order.parse(b'{"prompt": "a cat", "n": null}').images == 1


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"", "body"),
        (b"[]", "body"),
        (b"\xff", "body"),
        (b"[" * 100_000, "body"),
        (b"{}", "prompt"),
        (b'{"prompt": ""}', "prompt"),
        (b'{"prompt": 3}', "prompt"),
        (b'{"prompt": "x", "n": 0}', "n"),
        (b'{"prompt": "x", "n": 11}', "n"),
        (b'{"prompt": "x", "n": true}', "n"),
        (b'{"prompt": "x", "n": 1.5}', "n"),
    ],
)
def test_what_is_wrong_is_named(body: bytes, param: str):
    """A 400 with the field, never a failure later."""
    with pytest.raises(TollbridgeError) as caught:
        image_order.parse(body)
    assert caught.value.code is Code.INVALID_REQUEST
    assert caught.value.details["param"] == param


@given(st.integers(1, 10), st.text(min_size=1, max_size=50))
def test_other_fields_travel_on(images: int, prompt: str):
    """What we don't know may matter to the provider."""
    body = msgspec.json.encode({"prompt": prompt, "n": images, "background": "transparent"})
    order = image_order.parse(body)
    assert (order.images, order.prompt, order.fields["background"]) == (images, prompt, "transparent")
