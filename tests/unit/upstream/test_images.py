"""Image calls and answers, and the sandbox's pictures through the same wire."""

import dataclasses
import json

import pytest

from pricing.tokens import Tokens, Units
from tests.fakes.routes import route_to
from upstream.calls import send
from upstream.client import UpstreamClient
from upstream.openai.images import prepare, read_answer
from upstream.outcome import AttemptFailed
from upstream.route import WireProtocol
from upstream.sandbox.provider import Sandbox

ROUTE = route_to("sandbox:", protocol=WireProtocol.SANDBOX)


async def test_pictures_of_the_sandbox() -> None:
    """A call prepared for a provider gives pictures and what they count as."""
    call = prepare({"model": "public", "prompt": "a cat", "n": 2, "novel": 1}, ROUTE, request_id="r")
    assert json.loads(call.body) == {"model": "theirs", "prompt": "a cat", "n": 2, "novel": 1}
    response = await send(ROUTE, call, client=UpstreamClient(), sandbox=Sandbox())
    answer = read_answer(await response.read(100_000))
    assert [image.data[:4] for image in answer.images if image.data] == [b"\x89PNG"] * 2
    assert answer.captured.units == Units(requests=1, images=2)
    assert answer.captured.tokens is None


@pytest.mark.parametrize(
    ("model", "asked", "sent"),
    [
        ("flux", "url", "b64_json"),
        ("flux", None, None),
        ("gpt-image-2", "url", None),
        ("openai/gpt-image-2", "b64_json", None),
    ],
)
def test_images_are_asked_for_in_a_form_that_the_provider_takes(
    model: str, asked: str | None, sent: str | None
) -> None:
    """Base64 where the client cares; nothing at all of models that have one form only."""
    body = {"prompt": "x", **({"response_format": asked} if asked else {})}
    call = prepare(body, dataclasses.replace(ROUTE, provider_model=model), request_id="r")
    assert json.loads(call.body).get("response_format") == sent


def test_links_and_usage() -> None:
    """A provider may send links, and the tokens of its image model by kind."""
    usage = {"input_tokens": 50, "input_tokens_details": {"image_tokens": 40}, "output_tokens": 100}
    answer = read_answer(json.dumps({"data": [{"url": "https://x.test/1"}], "usage": usage}).encode())
    assert answer.images[0].url == "https://x.test/1"
    assert answer.captured.tokens == Tokens(input=10, image_input=40, output=100)
    odd = {**usage, "input_tokens_details": {"image_tokens": 51}}
    assert read_answer(json.dumps({"data": [{"url": "u"}], "usage": odd}).encode()).captured.implausible


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{}", b'{"data":[]}', b'{"data":[{}]}', b'{"data":[{"b64_json":"*"}]}', b'{"data":[{"url":""}]}'],
)
def test_no_image_is_a_failure(body: bytes) -> None:
    """A success without pictures is the provider's failure."""
    with pytest.raises(AttemptFailed):
        read_answer(body)


@pytest.mark.parametrize(
    ("cost", "nano"), [("0.0421", 42_100_000), ('"0.0421"', 42_100_000), ("-1", None), ("null", None)]
)
def test_the_cost_that_an_image_provider_reports_is_read_exactly(cost: str, nano: int | None) -> None:
    """It is charged where the price goes by it; one that can't be is flagged and forgotten."""
    body = '{"data": [{"url": "u"}], "usage": {"input_tokens": 3, "output_tokens": 5, "cost": ' + cost + "}}"
    captured = read_answer(body.encode()).captured
    assert captured.reported_cost_nano_usd == nano
    assert captured.tokens == Tokens(input=3, output=5)
    assert captured.implausible == (cost == "-1")
