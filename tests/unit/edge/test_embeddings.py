"""Embeddings through edge over real HTTP and gRPC: the vectors as they came, and the exact charge of their input."""

import json
import math
from decimal import Decimal

import pytest

from pricing.charge import charge_nano_usd
from pricing.tokens import Tokens, Units
from services.edge.bodies.embeddings_request import parse_embeddings
from tests.unit.edge.world import World
from tests.unit.edge.world_owners import PRICE
from tollbridge.usage.v1 import usage_pb2
from upstream.openai.embeddings import read_answer
from upstream.outcome import AttemptFailed
from upstream.usage import UsageLimits

PATH = "/embeddings"


async def test_embeddings_are_charged_for_their_input(world: World):
    """The answer's cost, the event's charge and the provider's count × price agree to the nano-dollar."""
    texts = ["one two three", 'four #sandbox {"prompt_tokens": 17}']
    async with world.post({"model": "fast", "input": texts}, path=PATH) as response:
        raw = await response.read()
        assert response.status == 200, raw
        request_id = response.headers["x-request-id"]
    answer = json.loads(raw, parse_float=Decimal)
    expected = charge_nano_usd(Tokens(input=17), Units(requests=1), PRICE)
    assert (answer["object"], answer["model"]) == ("list", "fast")
    assert answer["usage"] == {"prompt_tokens": 17, "total_tokens": 17, "cost": Decimal(expected) / 10**9}
    assert [each["index"] for each in answer["data"]] == [0, 1]
    assert all(math.isclose(math.hypot(*map(float, each["embedding"])), 1) for each in answer["data"])
    event = await world.event_of(request_id)
    assert (event.charge_nano_usd, event.operation) == (expected, "embeddings")
    assert event.evidence == usage_pb2.EVIDENCE_PROVIDER
    assert world.truth.decisions[0].operation == "embedding"
    await world.settled()


async def test_embeddings_without_usage_are_counted(world: World):
    """By the tokenizer, and the receipt says so."""
    body = {"model": "fast", "input": 'hello #sandbox {"usage": false}'}
    async with world.post(body, path=PATH) as response:
        answer = await response.json()
        request_id = response.headers["x-request-id"]
    event = await world.event_of(request_id)
    assert event.evidence == usage_pb2.EVIDENCE_COUNTED
    assert 0 < answer["usage"]["prompt_tokens"] == event.tokens.input < len(body["input"])
    await world.settled()


async def test_input_beyond_the_balance_is_refused_before_it_runs(world: World):
    """Nothing is generated, so there is nothing that could be cut to what the balance can pay."""
    world.truth.balance_nano_usd = 10
    async with world.post({"model": "fast", "input": "word " * 1000}, path=PATH) as response:
        assert response.status == 402, await response.text()
        assert "output tokens" not in await response.text()
    await world.settled()
    assert world.truth.balance_nano_usd == 10


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "input"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": {"a": 1}}, "input"),
        ({"input": ["a", ""]}, "input[1]"),
        ({"input": ["a", 1]}, "input[1]"),
        ({"input": [[1], []]}, "input[1]"),
        ({"input": [-1]}, "input[0]"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format"),
        ({"input": "a", "stream": True}, "stream"),
    ],
)
async def test_a_wrong_field_is_refused_by_its_name(world: World, fields: dict, param: str):
    """Before anything is held."""
    async with world.post({"model": "fast", **fields}, path=PATH) as response:
        assert response.status == 400
        assert (await response.json())["error"]["param"] == param
    assert not world.truth.decisions


@pytest.mark.parametrize(
    "answer",
    [b"", b"{}", b'{"data": []}', b'{"data": {}}', b'{"error": {"message": "no", "code": 429}}', b"<html>"],
)
def test_what_holds_no_vectors_is_a_failed_attempt(answer: bytes):
    """It is tried elsewhere and never charged."""
    with pytest.raises(AttemptFailed):
        read_answer(answer, model="m")


@pytest.mark.parametrize("usage", [b'{"prompt_tokens": -1}', b'{"prompt_tokens": 99999}', b'{"prompt_tokens": "9"}'])
def test_a_count_that_cannot_be_is_not_believed(usage: bytes):
    """Ours stands in for it, and it is flagged."""
    body = b'{"object": "list", "data": [{"embedding": [0.1]}], "usage": ' + usage + b"}"
    captured = read_answer(body, model="m", limits=UsageLimits(max_input=100, max_output=0)).captured
    assert (captured.tokens, captured.implausible) == (None, True)


@pytest.mark.parametrize(
    "usage",
    [{"prompt_tokens": 7, "completion_tokens": None}, {"total_tokens": 7}, {"prompt_tokens": 7, "total_tokens": 9}],
)
def test_a_count_is_believed_by_whichever_name_it_has(usage: dict):
    """Some name the total only, and some an output of nothing."""
    body = json.dumps({"object": "list", "data": [{"embedding": [0.1]}], "usage": usage}).encode()
    assert read_answer(body, model="m").captured.tokens == Tokens(input=7)


@pytest.mark.parametrize("fields", [{"input": ["a"] * 5000}, {"input": ["a"] * 300, "dimensions": 4000}])
async def test_the_sandbox_makes_so_many_numbers_and_no_more(world: World, fields: dict):
    """It makes them in our own process."""
    async with world.post({"model": "fast", **fields}, path=PATH) as response:
        assert response.status == 400, await response.text()
    await world.settled()


def test_tokens_may_be_sent_instead_of_texts():
    """One text's, or those of several."""
    for given in ([1, 2, 3], [[1, 2], [3]]):
        request = parse_embeddings(json.dumps({"model": "m", "input": given}).encode())
        assert request.choices == 0
