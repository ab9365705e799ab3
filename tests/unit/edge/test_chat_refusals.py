"""What is refused before a provider is called: with the right status, the field named, and nothing held."""

import asyncio
import json
import re
import time

import pytest

from tests.unit.edge.world import World, until
from tests.unit.edge.world_owners import KEY


def chat(**fields) -> dict:
    return {"model": "fast", "messages": [{"role": "user", "content": "Hi"}], **fields}


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"messages": [{"role": "user", "content": "Hi"}]}, 400, "model"),
        ({"model": "fast"}, 400, "messages"),
        ({"model": "fast", "messages": []}, 400, "messages"),
        ({"model": "fast", "messages": "Hi"}, 400, "messages"),
        ({"model": 5, "messages": [{"role": "user", "content": "Hi"}]}, 400, "model"),
        ({"model": "fast", "messages": [{"role": "user", "content": 5}]}, 400, "messages[0].content"),
        (chat(temperature=2.1), 400, "temperature"),
        (chat(temperature="hot"), 400, "temperature"),
        (chat(top_p=-0.1), 400, "top_p"),
        (chat(presence_penalty=2.5), 400, "presence_penalty"),
        (chat(frequency_penalty=-2.5), 400, "frequency_penalty"),
        (chat(n=0), 400, "n"),
        (chat(n=129), 400, "n"),
        (chat(max_tokens=0), 400, "max_tokens"),
        (chat(max_completion_tokens=-1), 400, "max_completion_tokens"),
        (chat(tools="x"), 400, "tools"),
        (chat(messages=[{"role": "robot", "content": "Hi"}]), 400, "messages[0].role"),
        (chat(messages=[{"role": "user", "content": [{"type": "text"}]}]), 400, "messages[0].content[0].text"),
        (chat(messages=[{"role": "system", "content": "Hi"}, {"role": "user"}]), 400, "messages[1].content"),
        (chat(messages=[{"role": "user", "content": None}]), 400, "messages[0].content"),
        (chat(web_search_options={}), 400, "web_search_options"),
        (chat(model="unknown"), 404, "model"),
        ([], 400, None),
    ],
)
async def test_a_wrong_field_is_refused_by_its_name(world: World, body, status, param):
    """Bad input gets the dialect's error with `param`, never a 500, and holds no money."""
    async with world.post(body) as response:
        error = (await response.json())["error"]
        assert response.status == status, error
        assert error["param"] == param
        assert response.headers["x-request-id"]
    assert not world.truth.held
    assert not world.truth.applied


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"model": "fast"',
        b'{"model": "fast", "messages": [{"role": "user", "content": "Hi"}], "user": "\xff"}',
        json.dumps(chat(extra=json.loads("[" * 65 + "]" * 65))).encode(),
        b"[" * 100_000 + b"]" * 100_000,
    ],
    ids=["empty", "cut", "cut later", "not utf-8", "too deep", "very deep"],
)
async def test_what_is_no_proper_json_is_refused(world: World, body):
    """Invalid JSON, invalid UTF-8 anywhere and nesting beyond 64 are a 400."""
    async with world.post(body) as response:
        assert response.status == 400
        assert (await response.json())["error"]["code"] == "invalid_request"


@pytest.mark.parametrize("number", ["1e400", "-1E+309", "1" + "0" * 309 + ".5", "9" * 5000], ids=lambda text: text[:8])
async def test_a_number_beyond_all_is_refused_wherever_it_stands(world: World, number: str):
    """Also within fields that only a provider would read."""
    tools = '"tools": [{"type": "function", "function": {"name": "f", "parameters": {"a": ' + number + "}}}]"
    body = '{"model": "fast", "messages": [{"role": "user", "content": "2e999"}], ' + tools + "}"
    async with world.post(body.encode()) as response:
        assert response.status == 400
        assert "out of range" in (await response.json())["error"]["message"]


@pytest.mark.parametrize("number", ["1e300", "5e-324", "1.7976931348623157E+0308"])
async def test_numbers_that_take_long_to_read_are_refused_in_bulk(world: World, number: str):
    """A few are fine, and so are texts full of them; 20 MiB of them would stop everybody's requests for minutes."""
    few, many = ",".join([number] * 900), ",".join([number] * 200_000)
    body = '{"model": "fast", "messages": [{"role": "user", "content": "%s"}], "extra": [%s]}'
    async with world.post((body % (",".join([number] * 5000), few)).encode()) as response:
        assert response.status == 200
    started_s = time.process_time()
    async with world.post((body % ("Hi", many)).encode()) as response:
        assert response.status == 400
        assert "large exponents" in (await response.json())["error"]["message"]
    assert time.process_time() - started_s < 1  # of this process's own: some 10 otherwise


async def test_json_as_deep_as_allowed_passes(world: World):
    """Brackets in text do not count as depth, and 64 levels are fine."""
    deep = json.loads("[" * 63 + "]" * 63)
    async with world.post(chat(extra=deep, user='[[{{"' * 100)) as response:
        assert response.status == 200


async def test_a_body_over_twenty_mib_is_refused_while_it_comes(world: World):
    """413 without a Content-Length too, so nothing large is ever kept."""

    async def endless():
        for _ in range(21):
            yield b" " * (1 << 20)

    headers = {"authorization": f"Bearer {KEY}"}
    async with world.session.post(f"{world.base_url}/v1/chat/completions", data=endless(), headers=headers) as response:
        assert response.status == 413


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"authorization": "Bearer wrong"}, 401),
        ({"x-api-key": "wrong"}, 401),
        ({"authorization": f"Bearer {KEY}", "x-api-key": "other"}, 400),
        ({"authorization": f"Bearer {KEY}", "x-api-key": KEY}, 200),
        ({"x-api-key": KEY}, 200),
    ],
)
async def test_the_key_comes_in_one_of_two_headers(world: World, headers, status):
    """Both headers work; both with different keys is a 400."""
    async with world.session.post(f"{world.base_url}/v1/chat/completions", json=chat(), headers=headers) as response:
        assert response.status == status


async def test_an_alias_is_served_under_the_public_id(world: World):
    """The answer names the model as the registry does."""
    async with world.post(chat(model="alias-of-fast")) as response:
        assert (await response.json())["model"] == "fast"


async def test_a_key_for_other_models_is_refused(world: World):
    """403 model_not_allowed, and the slot is given back."""
    world.truth.key_models = ("slow",)
    async with world.post(chat()) as response:
        assert response.status == 403
        assert (await response.json())["error"]["code"] == "model_not_allowed"
    await until(lambda: len(world.truth.finished) == 1)


async def test_without_money_for_sixteen_tokens_it_is_a_402(world: World):
    """The refusal says so, holds nothing, and tells clients not to try again."""
    world.truth.balance_nano_usd = 10_000
    async with world.post(chat()) as response:
        assert response.status == 402
        assert response.headers["x-should-retry"] == "false"
        assert (await response.json())["error"]["code"] == "insufficient_credits"
    assert not world.truth.held


async def test_short_credit_clamps_the_output(world: World):
    """What is affordable runs, and the header says how much that is."""
    world.truth.balance_nano_usd = 1_000_000  # at most 250 output tokens, less the input
    async with world.post(world.body({"output_tokens": 900}, max_tokens=900)) as response:
        assert response.status == 200
        answer = await response.json()
        allowed = int(response.headers["x-tollbridge-max-tokens"])
        assert 16 <= allowed < 250
        assert answer["usage"]["completion_tokens"] == allowed
        assert answer["choices"][0]["finish_reason"] == "length"
    await world.settled()
    assert world.truth.balance_nano_usd >= 0


@pytest.mark.parametrize("limit", [{"max_tokens": 900}, {}])
async def test_a_clamped_stream_ends_as_length_and_says_how_much_it_was(world: World, limit: dict):
    """The header comes before the first event, with a limit of the client's and without."""
    world.truth.balance_nano_usd = 1_000_000
    async with world.post(world.body({"output_tokens": 900}, stream=True, **limit)) as response:
        allowed = int(response.headers["x-tollbridge-max-tokens"])
        assert 16 <= allowed < 250
        events = [json.loads(line[6:]) for line in (await response.text()).split("\n\n") if line.startswith("data: {")]
    finishes = [choice["finish_reason"] for event in events for choice in event["choices"] if choice["finish_reason"]]
    assert finishes == ["length"]
    event = await world.only_event()
    assert event.tokens.output == allowed


async def test_refusing_short_credit_says_what_is_affordable(world: World):
    """With `on_short_credit: refuse` a limit that is too dear is a 402; the tokens that it names do run, in full."""
    world.clamps[0] = False
    world.truth.balance_nano_usd = 1_000_000
    async with world.post(chat(max_tokens=900)) as response:
        assert response.status == 402
        message = (await response.json())["error"]["message"]
    affordable = int(re.findall(r"cover (\d+) output tokens", message)[0])
    async with world.post(chat(max_tokens=affordable + 1)) as response:
        assert response.status == 402
    async with world.post(chat(max_tokens=affordable)) as response:
        assert response.status == 200
        assert "x-tollbridge-max-tokens" not in response.headers
    await world.settled()


async def test_more_than_the_model_can_is_clamped(world: World):
    """`max_tokens` above `max_output` is cut down, with the header."""
    async with world.post(chat(max_tokens=5000)) as response:
        assert response.status == 200
        assert response.headers["x-tollbridge-max-tokens"] == "1000"


async def test_two_hundred_at_once_on_a_balance_for_ten(world: World):
    """Exactly as many run as the balance pays for in the worst case; nothing goes below zero."""
    body = chat(max_tokens=100)
    async with world.post(body) as response:
        assert response.status == 200
    await world.settled()
    text = len(json.dumps(body).encode())
    world.truth.balance_nano_usd = 10 * (text * 1000 + 100 * 4000)
    world.clamps[0] = False

    async def one() -> int:
        for _ in range(50):  # on a busy machine it may be "not now", and then is asked again
            async with world.post(body) as response:
                await response.read()
                if response.status != 503:
                    return response.status
            await asyncio.sleep(0.2)
        return response.status

    statuses = await asyncio.gather(*(one() for _ in range(200)))
    assert set(statuses) <= {200, 402}
    assert statuses.count(200) >= 10
    await world.settled()
    assert world.truth.balance_nano_usd >= 0


async def test_another_method_is_a_405(world: World):
    """The path exists, so it is the method that is wrong."""
    async with world.session.get(f"{world.base_url}/v1/chat/completions") as response:
        assert response.status == 405
        assert (await response.json())["error"]["code"] == "method_not_allowed"


async def test_a_refused_request_is_counted_by_key_and_code(world: World):
    """Also one with a key that nobody knows; an answered one counts nothing."""
    async with world.post(chat()) as response:
        assert response.status == 200
        await response.read()
    for body, key in ((chat(n=0), KEY), (chat(model="unknown"), KEY), (chat(), "nobody's")):
        async with world.post(body, key=key) as response:
            assert response.status in (400, 401, 404)
    async with world.post(chat(), key="nobody's", path="/messages/count_tokens") as response:
        assert response.status == 401
    await until(lambda: sum(total for _, total in world.relay.tools.refusals.untold()) == 4)
    by_code = {(code.value, bool(key_id)) for (_, key_id, code), _ in world.relay.tools.refusals.untold()}
    assert by_code == {("invalid_request", True), ("model_not_found", True), ("invalid_api_key", False)}
