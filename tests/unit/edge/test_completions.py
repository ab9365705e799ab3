"""`POST /completions` and `POST /moderations`: passed through, under our model's name, priced by what was used."""

import json

import pytest

from tests.unit.edge.web_provider import Provider, status, stream, whole
from tests.unit.edge.world import World, until
from tests.unit.edge.world_owners import KEY
from tollbridge.router.v1 import router_pb2


def ask(world: World, path: str = "completions", **fields):
    """Sends a request to an endpoint of old."""
    headers = {"authorization": f"Bearer {KEY}"}
    return world.session.post(f"{world.base_url}/v1/{path}", json={"model": "fast", **fields}, headers=headers)


def completion(*texts: str, **more) -> dict:
    """A whole completion."""
    choices = [{"index": at, "text": text, "logprobs": None, "finish_reason": "stop"} for at, text in enumerate(texts)]
    return {"id": "c", "object": "text_completion", "created": 1, "model": "theirs", "choices": choices, **more}


def piece(text: str, *, finish: str | None = None, **more) -> bytes:
    """A chunk of a streamed completion."""
    choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish}
    body = {"id": "c", "object": "text_completion", "created": 1, "model": "theirs", "choices": [choice], **more}
    return b"data: " + json.dumps(body).encode() + b"\n\n"


async def test_a_completion_is_passed_through_and_priced(world: World, provider: Provider):
    """Every field travels on; some prompts with some answers each are bounded by all of them."""
    provider.handlers = [whole(completion("a", "b", "c", "d", usage={"prompt_tokens": 6, "completion_tokens": 8}))]
    asked = {"prompt": ["one", "two"], "n": 2, "best_of": 2, "echo": True, "logprobs": 1, "suffix": ".", "top_k": 3}
    async with ask(world, max_tokens=5, **asked) as response:
        told = await response.json()
        assert response.status == 200, told
    assert [choice["text"] for choice in told["choices"]] == ["a", "b", "c", "d"]
    assert (told["model"], told["object"]) == ("fast", "text_completion")
    assert told["usage"] == {"prompt_tokens": 6, "completion_tokens": 8, "cost": 0.000038}
    del asked["best_of"]
    assert provider.calls[0] == {"model": "sandbox-1", "max_tokens": 5, **asked}
    event = await world.only_event()
    assert (event.charge_nano_usd, event.operation) == (6 * 1000 + 8 * 4000, "completions")
    assert world.truth.asked[0] >= 4 * 5 * 4000
    await world.settled()


async def test_a_streamed_completion_ends_with_usage_and_cost(world: World, provider: Provider):
    """Its pieces leave as they came but for the model's name; the provider is always asked for usage."""
    usage = {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}
    end = piece("", choices=[], usage=usage)
    provider.handlers = [stream(piece("On"), piece("ce"), piece("", finish="stop"), end, b"data: [DONE]\n\n")]
    async with ask(world, prompt="Go", stream=True, stream_options={"include_usage": True}) as response:
        told = [line[6:] for line in (await response.text()).split("\n\n") if line]
    assert told.pop() == "[DONE]"
    chunks = [json.loads(line) for line in told]
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks[:-1]) == "Once"
    assert {(chunk["model"], chunk["object"]) for chunk in chunks} == {("fast", "text_completion")}
    assert chunks[-1]["usage"] == {**usage, "cost": 0.000014}
    assert provider.calls[0]["max_tokens"] == 16
    assert provider.calls[0]["stream_options"] == {"include_usage": True}
    assert (await world.only_event()).charge_nano_usd == 2 * 1000 + 3 * 4000


@pytest.mark.parametrize("streams", [True, False])
async def test_an_echo_is_not_counted_as_output(world: World, provider: Provider, streams: bool):
    """Where the provider reports no usage, the prompt that it repeats was read, not generated."""
    prompt, said = "one two three four", " five six"
    told = stream(piece(prompt), piece(said), piece("", finish="stop"), b"data: [DONE]\n\n")
    provider.handlers = [told if streams else whole(completion(prompt + said))]
    async with ask(world, prompt=prompt, echo=True, stream=streams) as response:
        assert response.status == 200
        await response.read()
    event = await world.only_event()
    assert (event.tokens.input, event.tokens.output) == (4, 2)


async def test_what_stands_behind_the_gap_is_read_too(world: World, provider: Provider):
    """Where the provider reports no usage, a suffix is counted with the prompt."""
    provider.handlers = [whole(completion("x"))]
    async with ask(world, prompt="one two three four", suffix="five six seven eight nine") as response:
        assert response.status == 200
    assert (await world.only_event()).tokens.input >= 9


@pytest.mark.parametrize(
    ("param", "fields"),
    [
        ("best_of", {"best_of": 3, "n": 2}),
        ("prompt", {"prompt": None}),
        ("prompt", {"prompt": []}),
        ("prompt", {"prompt": ["", "x"] * 600_000, "n": 128, "echo": True}),
        ("max_tokens", {"max_tokens": 0}),
        ("n", {"n": 129}),
        ("temperature", {"temperature": 3}),
        ("stream", {"stream": 1}),
        ("logprobs", {"logprobs": True}),
    ],
)
async def test_a_wrong_field_of_a_completion_is_named(world: World, param: str, fields: dict):
    """Before anything is held."""
    async with ask(world, **{"prompt": "Hi", **fields}) as response:
        told = await response.json()
    assert (response.status, told["error"]["param"]) == (400, param)
    assert not world.truth.asked


@pytest.mark.parametrize("streams", [True, False])
async def test_the_sandbox_completes(world: World, streams: bool):
    """Its words are its tokens, each prompt has its answers, an echo comes first."""
    prompts = ['#sandbox {"text": "never read"}', 'Say #sandbox {"text": "one two"}']
    async with ask(world, prompt=prompts, n=2, echo=True, stream=streams) as response:
        text = await response.text()
        assert response.status == 200, text
    event = await world.only_event()
    assert event.tokens.output == 8
    if not streams:
        said = [choice["text"] for choice in json.loads(text)["choices"]]
        assert said == [f"{prompt} one two" for prompt in prompts for _ in range(2)]
    await world.settled()


async def test_a_moderation_is_passed_through(world: World, provider: Provider):
    """The results as they came, under our model's name; its input is counted where nobody says what it was."""
    results = [{"flagged": True, "categories": {"violence": True}, "category_scores": {"violence": 0.9}}]
    provider.handlers = [whole({"id": "modr-1", "model": "theirs", "results": results})]
    parts = [
        {"type": "text", "text": "one two three"},
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
    ]
    async with ask(world, "moderations", input=parts) as response:
        assert response.status == 200
        assert await response.json() == {"id": "modr-1", "model": "fast", "results": results}
    assert provider.calls[0] == {"model": "sandbox-1", "input": parts}
    event = await world.only_event()
    assert (event.operation, event.tokens.output) == ("moderations", 0)
    assert event.charge_nano_usd == event.tokens.input * 1000 > 0
    await world.settled()


@pytest.mark.parametrize("path", ["completions", "moderations"])
@pytest.mark.parametrize("code", [404, 405, 501])
async def test_asking_for_what_a_model_does_not_have_rests_nothing(
    world: World, provider: Provider, path: str, code: int
):
    """Else anybody could take a chat model from everybody; another provider is asked, and router learns nothing."""
    world.truth.routes = world.truth.routes[:1] * 2
    provider.handlers = [status(code), status(code)]
    async with ask(world, path, prompt="Hi", input="Hi") as response:
        assert response.status == 502
    assert [each.outcome for each in world.truth.decisions[1].tried] == [router_pb2.OUTCOME_NOT_OFFERED]
    await until(lambda: [each.outcome for each in world.truth.finished] == [router_pb2.OUTCOME_NOT_OFFERED])
    await world.settled()


async def test_a_free_moderation_costs_nothing(world: World, provider: Provider):
    """A model may be free: nothing is held, and its log has a line."""
    world.truth.routes[0]["rates"] = {}
    provider.handlers = [whole({"id": "modr-1", "model": "theirs", "results": [{"flagged": False}]})]
    world.truth.balance_nano_usd = 0
    async with ask(world, "moderations", input="Hi") as response:
        assert response.status == 200, await response.text()
    assert (await world.only_event()).charge_nano_usd == 0
    await world.settled()


@pytest.mark.parametrize("given", [None, [], 5, [5], [{"text": "no type"}]])
async def test_a_moderation_without_input_is_refused(world: World, given: object):
    """By its name."""
    async with ask(world, "moderations", input=given) as response:
        told = await response.json()
    assert response.status == 400
    assert told["error"]["param"].startswith("input")
