"""What a provider's or a client's failure does: one end for each request, charged by the rules of money.md."""

import asyncio
import json

import pytest
from aiohttp import web

from pricing.charge import charge_nano_usd
from pricing.tokens import Tokens, Units
from services.edge.http.reply import Reply
from services.edge.spending.replay import unconfirmed
from services.edge.spool.spool import Kind, Record
from services.edge.spool.spool_files import read as read_records
from tests.unit.edge.web_provider import Provider, chunk, ending, status, stream, usage_chunk
from tests.unit.edge.world import World, until
from tests.unit.edge.world_owners import PRICE
from tollbridge.auth.v1 import auth_pb2
from tollbridge.router.v1 import router_pb2
from tollbridge.usage.v1 import usage_pb2


def charge(prompt: int, completion: int) -> int:
    return charge_nano_usd(Tokens(input=prompt, output=completion), Units(requests=1), PRICE)


async def test_a_failed_attempt_is_tried_elsewhere_before_the_first_byte(world: World, provider: Provider):
    """The client sees one good answer, the router one failed attempt, the ledger one charge."""
    web_route = world.truth.routes[0]
    world.truth.routes = [web_route, {}]
    provider.handlers = [status(500)]
    async with world.post(world.body({"prompt_tokens": 5, "output_tokens": 3})) as response:
        assert response.status == 200
        request_id = response.headers["x-request-id"]
    event = await world.event_of(request_id)
    assert event.charge_nano_usd == charge(5, 3)
    assert event.provider_id == "sandbox"
    assert [each.outcome for each in world.truth.decisions[1].tried] == [router_pb2.OUTCOME_SERVER_ERROR]
    retried = [
        sample.value
        for metric in world.registry.collect()
        for sample in metric.samples
        if sample.name == "tollbridge_retries_total"
    ]
    assert retried == [1]
    await until(lambda: [each.outcome for each in world.truth.finished] == [router_pb2.OUTCOME_SUCCESS])
    await world.settled()


async def test_a_stream_counts_until_its_provider_has_ended_it(world: World, provider: Provider):
    """Whatever the end mark says: neither its slot nor its place among a key's requests is given away before."""
    world.truth.limits = auth_pb2.Limits(concurrent=1)
    finished_at_end: list[int] = []

    async def lingering(request: web.Request) -> web.StreamResponse:
        answer = await stream(chunk("a", finish="stop"), usage_chunk(5, 3), b"data: [DONE]\n\n", 0.1)(request)
        finished_at_end.append(len(world.truth.finished))
        return answer

    provider.handlers = [lingering]
    for _ in range(3):
        async with world.post(world.body(stream=True)) as response:
            assert response.status == 200
            assert (await response.text()).endswith("data: [DONE]\n\n")
    assert finished_at_end == [0, 1, 2]
    assert provider.disconnects == 0
    await world.settled()


async def test_a_stream_that_dies_before_its_first_word_is_tried_elsewhere(world: World, provider: Provider):
    """Only what says something of the answer counts as its first byte."""
    world.truth.routes = [world.truth.routes[0], {}]
    provider.handlers = [stream(b": hello\n\n", chunk(None, choices=[]), breaks=True)]
    async with world.post(world.body({"output_tokens": 3}, stream=True)) as response:
        assert response.status == 200
        assert (await response.text()).endswith("data: [DONE]\n\n")
    event = await world.only_event()
    assert event.provider_id == "sandbox"
    assert event.ended == usage_pb2.ENDED_COMPLETE


async def test_a_dearer_second_route_draws_anew(world: World, provider: Provider):
    """The worst case of the route that runs is what is held, and nothing of the first draw stays held."""
    dear = {"input": 3_000_000_000, "output": 9_000_000_000}
    world.truth.routes = [world.truth.routes[0], {"rates": dear}]
    provider.handlers = [status(503)]
    async with world.post(world.body({"prompt_tokens": 5, "output_tokens": 3})) as response:
        assert response.status == 200
    event = await world.only_event()
    assert event.charge_nano_usd == 5 * 3000 + 3 * 9000
    await world.settled()
    assert not world.truth.returned


async def test_a_dearer_second_route_runs_on_a_balance_that_pays_for_it_alone(world: World, provider: Provider):
    """The request's own first hold is not what it is refused for."""
    dear = {"input": 3_000_000_000, "output": 9_000_000_000}
    world.truth.routes = [world.truth.routes[0], {"rates": dear}]
    world.clamps[0] = False
    for _ in range(2):
        provider.handlers = [status(503)]
        async with world.post(world.body({"prompt_tokens": 5, "output_tokens": 3}, max_tokens=50)) as response:
            assert response.status == 200
        await world.settled()
        world.truth.balance_nano_usd = max(world.truth.asked)
    assert len(world.truth.asked) == 4


@pytest.mark.parametrize(
    ("provider_status", "client_status", "code"),
    [
        (400, 400, "provider_rejected"),
        (413, 400, "provider_rejected"),
        (422, 400, "provider_rejected"),
        (401, 502, "provider_error"),
        (404, 502, "provider_error"),
        (500, 502, "provider_error"),
        (429, 503, "overloaded"),
    ],
)
async def test_a_providers_refusal_becomes_ours(world: World, provider: Provider, provider_status, client_status, code):
    """The client's mistakes are told with the provider's words, ours are 502, busy is 503 with Retry-After."""
    provider.handlers = [status(provider_status, "your field is bad")]
    async with world.post(world.body()) as response:
        error = (await response.json())["error"]
        assert (response.status, error["code"]) == (client_status, code)
        assert ("your field is bad" in error["message"]) == (client_status == 400)
        assert ("retry-after" in response.headers) == (client_status == 503)
    event = await world.only_event()
    assert event.kind == usage_pb2.USAGE_KIND_VOID
    assert event.charge_nano_usd == 0
    assert event.http_status == client_status
    await world.settled()


@pytest.mark.parametrize("pieces", [(b"data: [DONE]\n\n",), (chunk(), b"data: [DONE]\n\n")], ids=["end", "role"])
async def test_an_end_without_an_answer_is_no_answer(world: World, provider: Provider, pieces: tuple[bytes, ...]):
    """No word, no finish, no usage: another provider is asked, and nobody pays for the first."""
    world.truth.routes = world.truth.routes[:1] * 2
    provider.handlers = [stream(*pieces), stream(chunk("one "), *ending(5, 3))]
    async with world.post(world.body(stream=True)) as response:
        assert "one " in await response.text()
    assert (await world.only_event()).charge_nano_usd == 5 * 1000 + 3 * 4000
    assert len(provider.calls) == 2
    await world.settled()


async def test_a_provider_that_breaks_off_is_not_paid_for(world: World, provider: Provider):
    """After the first byte: the error event, no `[DONE]`, a void with what was delivered, and no second attempt."""
    world.truth.routes = [world.truth.routes[0], {}]
    provider.handlers = [stream(chunk("one "), chunk("two "), breaks=True)]
    async with world.post(world.body(stream=True)) as response:
        text = await response.text()
    assert "one " in text
    assert '"error"' in text.rstrip().split("\n")[-1]
    assert "[DONE]" not in text
    event = await world.only_event()
    assert (event.kind, event.ended) == (usage_pb2.USAGE_KIND_VOID, usage_pb2.ENDED_UPSTREAM_FAILED)
    assert event.charge_nano_usd == 0
    assert event.provider_cost_nano_usd > 0
    assert len(provider.calls) == 1
    await world.settled()


async def test_an_answer_without_usage_is_counted(world: World, provider: Provider):
    """The exact tokenizer stands in, the usage shown is what is charged, and the event says so."""
    provider.handlers = [stream(chunk("Hello"), chunk(" world"), chunk(finish="stop"), b"data: [DONE]\n\n")]
    options = {"stream": True, "stream_options": {"include_usage": True}}
    async with world.post(world.body(**options)) as response:
        usage = json.loads((await response.text()).split("\n\n")[-3][6:])["usage"]
    event = await world.only_event()
    assert event.evidence == usage_pb2.EVIDENCE_COUNTED
    assert event.tokens.output == usage["completion_tokens"] == 2
    assert event.charge_nano_usd == charge(event.tokens.input, 2)


async def test_impossible_usage_is_replaced_and_flagged(world: World, provider: Provider):
    """More output than was allowed can't be: our own count is charged."""
    provider.handlers = [stream(chunk("Hello"), *ending(10, 1 << 30))]
    async with world.post(world.body(stream=True)) as response:
        await response.read()
    event = await world.only_event()
    assert event.implausible
    assert event.evidence == usage_pb2.EVIDENCE_COUNTED
    assert event.tokens.output == 1


async def test_the_total_time_ends_a_stream_as_length(world: World, provider: Provider):
    """What was delivered by then is charged, and the client gets a proper end."""
    world.truth.total_s = 0.6
    provider.handlers = [stream(chunk("Hello"), 30.0)]
    async with world.post(world.body(stream=True)) as response:
        text = await response.text()
    assert '"finish_reason":"length"' in text
    assert text.endswith("data: [DONE]\n\n")
    event = await world.only_event()
    assert event.ended == usage_pb2.ENDED_COMPLETE
    assert event.charge_nano_usd == charge(event.tokens.input, 1)
    await world.settled()


async def leave_after(world: World, first: bytes, body: dict) -> None:
    """Reads until `first` has come, then cuts the connection."""
    response = await world.post(body)
    seen = b""
    while first not in seen:
        seen += await response.content.readany()
    response.close()


async def test_a_left_stream_is_drained_and_charged_what_the_provider_reports(world: World, provider: Provider):
    """drain: read on to the usage, once."""
    go_on = asyncio.Event()
    provider.handlers = [stream(chunk("one "), go_on, chunk("two "), *ending(8, 2))]
    await leave_after(world, b"one ", world.body(stream=True))
    await until(lambda: world.relay.in_flight == 1)
    await asyncio.sleep(0.05)
    go_on.set()
    event = await world.only_event()
    assert (event.ended, event.policy) == (usage_pb2.ENDED_CLIENT_GONE, "drain")
    assert event.charge_nano_usd == charge(8, 2)
    assert event.evidence == usage_pb2.EVIDENCE_PROVIDER
    await world.settled()
    assert world.truth.applied_count == 1


async def test_a_drain_has_an_end(world: World, provider: Provider):
    """After `drain_s` what was delivered is charged, counted, and nothing of what came after; its place is free."""
    world.truth.drain_s = 0.5
    go_on = asyncio.Event()
    provider.handlers = [stream(chunk("one two"), go_on, chunk(" three four"), 30.0)]
    await leave_after(world, b"one two", world.body(stream=True))
    await until(lambda: bool(+world.relay._draining))
    go_on.set()
    event = await world.only_event()
    assert (event.ended, event.policy) == (usage_pb2.ENDED_CLIENT_GONE, "drain")
    assert event.evidence == usage_pb2.EVIDENCE_COUNTED
    assert event.tokens.output == 2
    assert event.charge_nano_usd == charge(event.tokens.input, 2)
    await world.settled()
    assert not +world.relay._draining


async def test_a_drain_that_dies_with_its_edge_is_charged_what_was_delivered(world: World, provider: Provider):
    """The client cut it short itself: the note in the spool is its end, should no other come."""
    provider.handlers = [stream(chunk("one two"), 30.0)]
    await leave_after(world, b"one two", world.body(stream=True))
    files = world.spool_dir / str(world.incarnation)

    def records() -> list[Record]:
        return [record for path in files.glob("*.spool") for _, record in read_records(path)]

    await until(lambda: [record.kind for record in records()] == [Kind.STARTED, Kind.NOTE])
    (event,) = unconfirmed(records())
    assert (event.kind, event.ended) == (usage_pb2.USAGE_KIND_CHARGE, usage_pb2.ENDED_CLIENT_GONE)
    assert event.evidence == usage_pb2.EVIDENCE_COUNTED
    assert event.charge_nano_usd == charge(event.tokens.input, 2)


async def test_a_left_stream_is_cancelled_and_charged_what_was_delivered(world: World, provider: Provider):
    """cancel: the provider's stream is closed at once, the delivered tokens are counted."""
    world.truth.on_disconnect = "cancel"
    provider.handlers = [stream(chunk("one two"), 30.0)]
    await leave_after(world, b"one two", world.body(stream=True))
    event = await world.only_event()
    assert (event.ended, event.policy) == (usage_pb2.ENDED_CLIENT_GONE, "cancel")
    assert event.charge_nano_usd == charge(event.tokens.input, 2) > 0
    await until(lambda: provider.disconnects == 1)
    await world.settled()
    await until(lambda: [each.outcome for each in world.truth.finished] == [router_pb2.OUTCOME_CANCELLED])


async def test_a_left_stream_is_absorbed(world: World, provider: Provider):
    """absorb: closed at once, nothing charged, the hold released."""
    world.truth.on_disconnect = "absorb"
    provider.handlers = [stream(chunk("one two"), 30.0)]
    await leave_after(world, b"one two", world.body(stream=True))
    event = await world.only_event()
    assert (event.kind, event.policy) == (usage_pb2.USAGE_KIND_VOID, "absorb")
    assert event.ended == usage_pb2.ENDED_CLIENT_GONE
    await until(lambda: provider.disconnects == 1)
    await world.settled()
    assert world.truth.balance_nano_usd == 1_000_000_000


@pytest.mark.parametrize("policy", ["drain", "cancel", "absorb"])
@pytest.mark.parametrize("streams", [True, False])
async def test_a_client_that_leaves_before_its_answer(world: World, provider: Provider, policy: str, streams: bool):
    """Nothing was delivered: only a drained answer is paid for."""
    world.truth.on_disconnect = policy

    async def slow(_: web.Request) -> web.Response:
        await asyncio.sleep(0.5)
        message = {"role": "assistant", "content": "late"}
        usage = {"prompt_tokens": 8, "completion_tokens": 1}
        choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
        return web.json_response({"id": "c", "model": "theirs", "choices": choices, "usage": usage})

    provider.handlers = [stream(0.5, chunk("late"), *ending(8, 1)) if streams else slow]
    call = asyncio.create_task(world.post(world.body(stream=streams))._coro)
    await until(lambda: len(provider.calls) == 1)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    event = await world.only_event()
    assert (event.ended, event.policy) == (usage_pb2.ENDED_CLIENT_GONE, policy)
    assert event.charge_nano_usd == (charge(8, 1) if policy == "drain" else 0)
    await world.settled()


async def test_a_running_stream_that_must_stop_is_our_failure(world: World, provider: Provider):
    """When the grace is over, a stream ends with the error event and a void, before the process does."""
    provider.handlers = [stream(chunk("one "), 30.0)]
    response = await world.post(world.body(stream=True))
    seen = await response.content.readany()
    await world.relay.drain(grace_s=0.05)
    seen += await response.content.read()
    assert b'"error"' in seen
    assert b"[DONE]" not in seen
    event = await world.only_event()
    assert (event.kind, event.ended) == (usage_pb2.USAGE_KIND_VOID, usage_pb2.ENDED_GATEWAY_FAILED)
    await until(lambda: provider.disconnects == 1)
    await world.settled()


async def test_a_stream_that_we_break_is_closed_at_its_provider(world: World, provider: Provider, monkeypatch):
    """It costs the client nothing, and the house no more than it has to."""
    provider.handlers = [stream(*[chunk("one "), 0.1] * 300)]

    def broken(*_) -> bytes:
        raise RuntimeError("a bug")

    monkeypatch.setattr(Reply, "write", broken)
    async with world.post(world.body(stream=True)) as response:
        assert b'"error"' in await response.content.read()
    event = await world.only_event()
    assert (event.kind, event.ended) == (usage_pb2.USAGE_KIND_VOID, usage_pb2.ENDED_GATEWAY_FAILED)
    await until(lambda: provider.disconnects == 1)
    await world.settled()


async def test_a_slow_reader_delays_only_itself(world: World):
    """A client that reads late gets everything, and is charged once."""
    script = {"output_tokens": 900, "chunks": 900, "prompt_tokens": 5}
    async with world.post(world.body(script, stream=True)) as response:
        await asyncio.sleep(0.3)
        text = await response.text()
    assert text.endswith("data: [DONE]\n\n")
    assert (await world.only_event()).charge_nano_usd == charge(5, 900)
    await world.settled()


@pytest.mark.parametrize("streamed", [True, False])
async def test_the_end_is_in_the_spool_before_the_last_bytes_leave(world: World, monkeypatch, streamed: bool):
    """Who has a whole answer is charged, whatever instant the process dies at."""
    name = "end" if streamed else "whole"
    plain, kinds = getattr(Reply, name), []
    spool = world.spool_dir / str(world.incarnation) / "1.spool"

    async def last(reply: Reply, *sent, **options) -> None:
        kinds.extend(record.kind for _, record in read_records(spool))
        await plain(reply, *sent, **options)

    monkeypatch.setattr(Reply, name, last)
    async with world.post(world.body({"output_tokens": 3}, stream=streamed)) as response:
        await response.read()
    assert kinds == [Kind.STARTED, Kind.FINISHED]
    await world.settled()


async def test_a_client_that_leaves_after_its_answer_takes_no_place_of_a_drain(world: World):
    """Every client leaves in the end."""
    for _ in range(3):
        async with world.post(world.body({"output_tokens": 3}, stream=True)) as response:
            await response.read()
            response.close()
    await world.settled()
    await until(lambda: not world.relay._running)
    assert not +world.relay._draining


async def test_a_decision_that_was_refused_is_stated_no_more(world: World):
    """Its attempt would be listed to router for ever."""
    async with world.post(world.body(model="unknown")) as response:
        assert response.status == 404
    await world.settled()
    assert len(world.relay.tools.attempts) == 0
