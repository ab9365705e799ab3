"""Images, sounds and files in a request: what is held for them, and what is charged where nobody has counted them."""

import json

import pytest

from pricing.tokens import Tokens
from services.edge.bodies.chat_request import parse_chat
from services.edge.paid.counting import counted
from services.edge.paid.paid_request import PaidRequest
from tests.unit.edge.web_provider import Provider, chunk, ending, stream
from tests.unit.edge.world import World
from upstream.route import Bounds
from upstream.usage import Captured, UsageLimits

BOUNDS = Bounds(max_part_tokens=1500)
PDF = "data:application/pdf;base64," + "A" * 10_000
PICTURE = "data:image/png;base64," + "A" * 10_000


def asking(*parts: dict, **fields) -> PaidRequest:
    """A request with these parts beside a text."""
    content = [{"type": "text", "text": "What is it?"}, *parts]
    body = {"model": "fast", "messages": [{"role": "user", "content": content}], **fields}
    return parse_chat(json.dumps(body).encode())


@pytest.mark.parametrize(
    "part",
    [
        {"type": "file", "file": {"file_data": PDF}},
        {"type": "video_url", "video_url": {"url": PDF}},
        {"type": "input_audio", "input_audio": {"data": "A" * 10_000, "format": "wav"}},
        {"type": "document", "source": {"type": "base64", "data": "A" * 10_000}},
        {"type": "image_url", "image_url": {"url": PDF}},
        {"type": "image_url", "image_url": PDF},
    ],
)
def test_what_grows_with_its_bytes_is_held_for_by_its_bytes(part: dict):
    """A large document, sound or video is no single piece, also when it comes as an `image_url`."""
    assert 10_000 <= asking(part).piece_tokens(BOUNDS) < 10_100
    assert asking(part).piece_tokens(Bounds(max_part_tokens=20_000)) == 20_000


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": PICTURE, "detail": "low"}},
        {"type": "image_url", "image_url": {"url": "https://example.com/a.pdf"}},
        {"type": "file", "file": {"file_id": "file-1"}},
        {"type": "video_url", "video_url": {"url": "https://example.com/a.mp4"}},
        {"type": "text", "text": "", "image_url": {"url": PICTURE}},
        {"type": "something_new"},
    ],
)
def test_an_image_or_a_link_is_one_piece(part: dict):
    """Its bytes are no measure of its tokens: the model's limit for a piece counts."""
    assert asking(part).piece_tokens(BOUNDS) == 1500


def test_no_more_is_held_for_pieces_than_the_context_can_take():
    """Where the context is known, all pieces together are at most that, but never less than the limit for each."""
    request = asking({"type": "file", "file": {"file_data": PDF}}, {"type": "file", "file": {"file_id": "f"}})
    assert request.piece_tokens(Bounds(max_part_tokens=1500, context=8000)) == 8000
    assert request.piece_tokens(Bounds(max_part_tokens=1500, context=2000)) == 3000


def test_without_a_limit_for_a_piece_its_bytes_count():
    """The whole body is the bound then."""
    request = asking({"type": "image_url", "image_url": {"url": PICTURE}})
    assert request.input_tokens(Bounds()) == len(request.body)


@pytest.mark.parametrize(
    ("captured", "pieces"),
    [
        (Captured(), 1500),
        (Captured(implausible=True), 1500),
        (Captured(implausible=True, beyond_input=True), 9000),
        (Captured(so_far=Tokens(input=700)), None),
    ],
)
async def test_pieces_that_nobody_counted_are_never_free(captured: Captured, pieces: int | None):
    """They cost the model's limit for each, and all that was held for them when the provider says there was more."""
    limits = UsageLimits(max_input=20_000, max_output=5, part_tokens=9000, usual_part_tokens=1500)
    request = asking({"type": "file", "file": {"file_data": PDF}})
    use = await counted(request=request, text=lambda: "", provider_model="m", captured=captured, limits=limits)
    if pieces is None:
        assert use.tokens.prompt == 700
    else:
        assert pieces < use.tokens.prompt < pieces + 50


async def test_an_enormous_document_is_charged_at_least_what_was_held_for_it(world: World, provider: Provider):
    """More input than can be is replaced by our count with the pieces in it, flagged, and counted in the metrics."""
    world.truth.routes[0]["bounds"] = {"max_part_tokens": 1500, "context": 1_000_000}
    provider.handlers = [stream(chunk("Hello"), *ending(500_000, 1))]
    request = asking({"type": "file", "file": {"file_data": PDF}}, stream=True, max_tokens=20)
    async with world.post(request.body) as response:
        await response.read()
    event = await world.only_event()
    assert event.implausible
    assert 10_000 < event.tokens.input < 10_100
    assert event.charge_nano_usd >= 10_000 * 1000
    assert world.registry.get_sample_value("tollbridge_implausible_usage_total", {"provider": "web"}) == 1
    await world.settled()
