"""`Idempotency-Key` on a chat: one execution, one charge, and the same bytes ever after."""

import asyncio
import contextlib
import json
from collections.abc import Mapping
from typing import cast

import msgspec
import pytest

from chassis.ids import uuid7
from pricing.charge import charge_nano_usd
from pricing.tokens import Tokens, Units
from services.edge.idempotency import claims
from services.edge.idempotency.answers import Answers, KeptAnswer
from services.edge.idempotency.claims import Claim
from services.edge.idempotency.keyed_request import Turn
from services.edge.spending.settlement import voided
from services.edge.spool.spool_files import read
from tests.unit.edge.web_provider import Provider, chunk, ending, status, stream
from tests.unit.edge.world import World, until
from tests.unit.edge.world_owners import PRICE
from tollbridge.usage.v1 import usage_pb2

KEY = {"idempotency-key": "order-7"}


def charge(prompt: int, completion: int) -> int:
    return charge_nano_usd(Tokens(input=prompt, output=completion), Units(requests=1), PRICE)


async def ask(world: World, body, headers: Mapping[str, str] = KEY) -> tuple[int, dict[str, str], bytes]:
    async with world.post(body, headers=headers) as response:
        raw = await response.read()
        return response.status, {name.lower(): value for name, value in response.headers.items()}, raw


async def refusal(world: World, body, headers: Mapping[str, str] = KEY) -> tuple[int, str]:
    code, _, raw = await ask(world, body, headers)
    return code, json.loads(raw)["error"]["code"]


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_repeated_key_gets_the_same_bytes_and_no_second_charge(world: World, streamed: bool):
    """A whole answer and a stream: same id, same headers, and a mark that says so."""
    script = {"prompt_tokens": 37, "output_tokens": 40, "chunks": 10}
    body = world.body(script, stream=streamed, stream_options={"include_usage": True} if streamed else None)
    first = await ask(world, body)
    again = await ask(world, body)
    assert (first[0], again[0]) == (200, 200)
    assert again[2] == first[2]
    assert "idempotency-replayed" not in first[1]
    assert again[1]["idempotency-replayed"] == "true"
    for name in ("x-request-id", "content-type"):
        assert again[1][name] == first[1][name]
    assert len(world.truth.decisions) == 1
    assert (await world.only_event()).charge_nano_usd == charge(37, 40)
    await world.settled()
    assert world.truth.balance_nano_usd == 1_000_000_000 - charge(37, 40)


async def test_a_key_stands_for_one_request(world: World):
    """Another body under it is 422, and runs nothing."""
    await ask(world, world.body({"output_tokens": 3}))
    assert await refusal(world, world.body({"output_tokens": 4})) == (422, "idempotency_mismatch")
    assert len(world.truth.decisions) == 1


async def test_while_it_runs_a_repetition_is_told_to_wait(world: World, provider: Provider):
    """409 with Retry-After, and the answer once it is there."""
    go = asyncio.Event()
    provider.handlers = [stream(chunk("one "), go, *ending(5, 3))]
    body = world.body(stream=True)
    running = asyncio.create_task(ask(world, body))
    await until(lambda: len(provider.calls) == 1)
    code, headers, _ = await ask(world, body)
    assert (code, headers["retry-after"]) == (409, "2")
    go.set()
    first = await running
    assert (await ask(world, body))[2] == first[2]
    assert len(provider.calls) == 1
    await world.settled()


@pytest.mark.parametrize("fails", [status(500), stream(chunk("one "), breaks=True)])
async def test_what_came_to_nothing_runs_anew(world: World, provider: Provider, fails):
    """A failure before or in the answer costs nothing and frees the key before its client hears of it."""
    provider.handlers = [fails, stream(chunk("two "), *ending(5, 3))]
    body = world.body(stream=True)
    first = await ask(world, body)
    again = await ask(world, body)
    assert b"two " in again[2]
    assert b"two " not in first[2]
    assert again[1]["x-request-id"] != first[1]["x-request-id"]
    assert (await world.event_of(again[1]["x-request-id"])).charge_nano_usd == charge(5, 3)
    await world.settled()


async def test_a_refused_request_frees_its_key(world: World):
    """The client mends the body and sends it under the same key."""
    assert (await ask(world, world.body(model="unknown")))[0] == 404
    assert (await ask(world, world.body()))[0] == 200


@pytest.mark.parametrize("broken", ["store", "billing"])
async def test_without_its_memory_nothing_runs(world: World, broken: str):
    """503 with Retry-After for those who need it; nobody else notices."""
    world.shelf.up = broken != "store"
    world.owners.claims.up = broken != "billing"
    code, headers, _ = await ask(world, world.body())
    assert (code, headers["retry-after"]) == (503, "1")
    assert not world.truth.decisions
    assert (await ask(world, world.body(), {}))[0] == 200
    assert not world.owners.claims.held


@pytest.mark.parametrize("key", ["", " ", "x" * 256, "ü", "a\tb"])
async def test_a_key_that_can_not_be_is_refused(world: World, key: str):
    """It must not pass for none."""
    code, _, raw = await ask(world, world.body(), {"idempotency-key": key})
    assert (code, json.loads(raw)["error"]["param"]) == (400, "Idempotency-Key")


@pytest.mark.parametrize("policy", ["drain", "cancel", "absorb"])
async def test_a_client_that_leaves_finds_its_whole_answer(world: World, provider: Provider, policy: str):
    """Whatever the provider's policy is: it is read on, charged as it ends, and given out when it is asked for."""
    world.truth.on_disconnect = policy
    go = asyncio.Event()
    provider.handlers = [stream(chunk("one "), go, chunk("two "), *ending(5, 3))]
    body = world.body(stream=True)
    await leave(world, body)
    go.set()
    event = await world.only_event()
    assert (event.ended, event.policy) == (usage_pb2.ENDED_CLIENT_GONE, "drain")
    assert event.charge_nano_usd == charge(5, 3)
    code, headers, raw = await ask(world, body)
    assert (code, headers["x-request-id"]) == (200, event.request_id)
    assert [word in raw for word in (b"one ", b"two ", b"[DONE]")] == [True] * 3
    assert raw.count(b"one ") == 1
    assert len(provider.calls) == 1
    await world.settled()


async def test_what_breaks_after_its_client_left_costs_nothing_and_runs_anew(world: World, provider: Provider):
    """The provider did not finish it, and the client will not have it."""
    go = asyncio.Event()
    provider.handlers = [stream(chunk("one "), go, breaks=True), stream(chunk("two "), *ending(5, 3))]
    body = world.body(stream=True)
    await leave(world, body)
    go.set()
    void = await world.only_event()
    assert (void.kind, void.ended) == (usage_pb2.USAGE_KIND_VOID, usage_pb2.ENDED_UPSTREAM_FAILED)
    code, headers, raw = await ask(world, body)
    assert (code, b"two " in raw, b"one " in raw) == (200, True, False)
    assert (await world.event_of(headers["x-request-id"])).charge_nano_usd == charge(5, 3)
    await world.settled()


async def test_a_whole_answer_is_there_for_a_client_that_left(world: World):
    """Who gives up waiting and asks again gets it, and pays once."""
    body = world.body({"prompt_tokens": 5, "output_tokens": 3, "first_byte_ms": 500})
    with contextlib.suppress(asyncio.TimeoutError):
        async with asyncio.timeout(0.2):
            await ask(world, body)
    event = await world.only_event()
    code, headers, raw = await ask(world, body)
    assert (code, headers["x-request-id"]) == (200, event.request_id)
    assert json.loads(raw)["usage"]["completion_tokens"] == 3
    await world.settled()


async def test_an_answer_at_the_total_time_is_charged_though_its_client_left_before_it_began(
    world: World, provider: Provider
):
    """It is kept and given out to who asks again, so it is paid for."""
    world.truth.total_s = 0.6
    go = asyncio.Event()
    provider.handlers = [stream(go, chunk("one "), asyncio.Event())]
    body = world.body(stream=True)
    asking = asyncio.create_task(ask(world, body))
    await until(lambda: len(provider.calls) == 1)
    asking.cancel()
    await asyncio.wait([asking])
    await asyncio.sleep(0.1)
    go.set()
    event = await world.only_event()
    code, headers, raw = await ask(world, body)
    assert (code, headers["x-request-id"], b"one " in raw) == (200, event.request_id, True)
    assert (event.kind, event.policy) == (usage_pb2.USAGE_KIND_CHARGE, "drain")
    assert event.charge_nano_usd == charge(event.tokens.input, event.tokens.output) > 0
    await world.settled()


async def test_what_is_cut_after_its_client_left_is_charged_once_and_shown_as_it_is(world: World, provider: Provider):
    """The drain's limit ends it: the repetition gets what there was, with the error at its end, and runs nothing."""
    world.truth.drain_s = 0.2
    provider.handlers = [stream(chunk("one "), asyncio.Event())]
    body = world.body(stream=True)
    await leave(world, body)
    event = await world.only_event()
    assert event.kind == usage_pb2.USAGE_KIND_CHARGE
    code, headers, raw = await ask(world, body)
    assert (code, headers["x-request-id"]) == (200, event.request_id)
    assert b"one " in raw
    assert b'"error"' in raw
    assert b"[DONE]" not in raw
    assert len(provider.calls) == 1
    await world.settled()


async def test_an_answer_that_can_not_be_kept_is_given_all_the_same_and_never_run_again(world: World):
    """The store went away while it ran: its client has it; who asks again is told that it is gone."""
    world.shelf.takes = False
    first = await ask(world, world.body())
    assert first[0] == 200
    world.shelf.takes = True
    code, headers, raw = await ask(world, world.body())
    assert (code, headers["x-should-retry"]) == (409, "false")
    assert first[1]["x-request-id"] in raw.decode()
    assert len(world.truth.decisions) == 1
    await world.settled()


async def test_an_answer_whose_runner_died_is_given_out_with_its_charge(world: World):
    """It was kept and its end was never written down: the taker does both."""
    first = await ask(world, world.body({"prompt_tokens": 5, "output_tokens": 3}))
    await world.settled()
    world.truth.applied.clear()  # as if the runner had died before it wrote *finished*
    held = world.owners.claims.held["order-7"]
    held.answered = held.alive = False
    kept = msgspec.msgpack.decode(world.shelf.kept[first[1]["x-request-id"]], type=KeptAnswer)
    event = usage_pb2.UsageRecorded.FromString(kept.event)
    event.spender = "another"
    kept = msgspec.structs.replace(kept, event=event.SerializeToString())
    world.shelf.kept[kept.request_id] = msgspec.msgpack.encode(kept)
    again = await ask(world, world.body({"prompt_tokens": 5, "output_tokens": 3}))
    assert again[2] == first[2]
    assert held.answered
    assert (await world.event_of(first[1]["x-request-id"])).charge_nano_usd == charge(5, 3)
    assert len(world.truth.decisions) == 1
    await world.settled()


async def test_a_charge_that_waits_for_billing_is_adopted_once(world: World):
    """However often its answer is asked for meanwhile: neither spool nor memory grow with that."""
    world.bus.up = False
    event = usage_pb2.UsageRecorded(
        event_id=str(uuid7()), request_id=str(uuid7()), kind=usage_pb2.USAGE_KIND_CHARGE, spender="another"
    )
    for _ in range(3):
        world.relay.tools.settlement.adopt(event)
    (own,) = (world.spool_dir / str(world.incarnation)).glob("*.spool")
    assert len(list(read(own))) == 1
    assert len(world.publisher._fresh) == 1
    world.bus.up = True
    await world.settled()


async def test_an_answer_is_charged_while_the_void_of_its_dead_runner_waits(world: World):
    """Whoever replays a spool without its end makes a void of its beginning, which has the charge's id."""
    world.bus.up = False
    event = usage_pb2.UsageRecorded(
        event_id=str(uuid7()),
        request_id=str(uuid7()),
        kind=usage_pb2.USAGE_KIND_CHARGE,
        charge_nano_usd=7000,
        spender="another",
    )
    freed: list[str] = []
    world.publisher.add_former(voided(event), forget=lambda: freed.append("former"))
    world.relay.tools.settlement.adopt(event)
    world.bus.up = True
    await world.settled()
    assert (await world.event_of(event.request_id)).charge_nano_usd == 7000
    assert freed == ["former"]


async def test_a_claim_lapses_when_the_charge_of_its_kept_answer_can_not_be_read(world: World):
    """500 for whoever took it over, and the key is free for the next who asks: it isn't stated for ever."""
    first = await ask(world, world.body())
    await world.settled()
    held = world.owners.claims.held["order-7"]
    held.answered = held.alive = False
    kept = msgspec.msgpack.decode(world.shelf.kept[first[1]["x-request-id"]], type=KeptAnswer)
    world.shelf.kept[kept.request_id] = msgspec.msgpack.encode(msgspec.structs.replace(kept, event=b"\xff"))
    assert (await ask(world, world.body()))[0] == 500
    assert not held.alive
    world.shelf.kept[kept.request_id] = msgspec.msgpack.encode(kept)
    assert (await ask(world, world.body()))[2] == first[2]
    await world.settled()


async def test_a_request_whose_runner_died_runs_under_its_first_id(world: World):
    """So that billing charges it once, whatever the first runner may still come up with."""
    first = await ask(world, world.body())
    await world.settled()
    world.shelf.kept.clear()
    world.truth.applied.clear()
    held = world.owners.claims.held["order-7"]
    held.answered = held.alive = False
    again = await ask(world, world.body())
    assert again[0] == 200
    assert again[1]["x-request-id"] == first[1]["x-request-id"]
    assert "idempotency-replayed" not in again[1]
    assert held.answered
    assert (await world.only_event()).request_id == first[1]["x-request-id"]
    await world.settled()


async def test_a_request_that_was_taken_over_and_came_to_nothing_keeps_its_id(world: World):
    """Its first runner, that only seemed dead, may still charge under it: a new id would be a second charge."""
    first = await ask(world, world.body())
    await world.settled()
    world.shelf.kept.clear()
    world.truth.applied.clear()
    held = world.owners.claims.held["order-7"]
    held.answered = held.alive = False
    models, world.truth.key_models = world.truth.key_models, ("another",)
    world.admission._kept.clear()
    assert (await ask(world, world.body()))[0] == 403
    world.truth.key_models = models
    world.admission._kept.clear()
    again = await ask(world, world.body())
    assert (again[0], again[1]["x-request-id"]) == (200, first[1]["x-request-id"])
    await world.settled()


async def test_billing_is_told_of_an_end_although_its_run_is_cancelled():
    """Or the key would be in use until its claim lapses."""
    go, told = asyncio.Event(), asyncio.Event()

    class Claims:
        async def end(self, *_) -> None:
            await go.wait()
            told.set()

    claim = Claim(call_id="1", request_id=uuid7(), taken_over=False, answered=False)
    turn = Turn(claim=claim, claims=cast("claims.Claims", Claims()), answers=cast("Answers", None))
    ending = asyncio.create_task(turn.end(charged=False))
    await asyncio.sleep(0)
    ending.cancel()
    await asyncio.wait([ending])
    go.set()
    await asyncio.wait_for(told.wait(), 5)


async def test_an_end_that_two_processes_bring_is_forgotten_by_both(world: World):
    """A dead runner's spool and its taker may hold the same charge; neither waits for ever."""
    request = uuid7()
    event = usage_pb2.UsageRecorded(request_id=str(request), kind=usage_pb2.USAGE_KIND_CHARGE, customer_id="c")
    forgotten: list[bool] = []
    world.publisher.add_former(event, forget=lambda: forgotten.append(True))
    world.publisher.add(event, payload=event.SerializeToString(), key=request.bytes)
    await until(lambda: bool(forgotten))
    await world.settled()


async def leave(world: World, body) -> None:
    """Sends a request and goes away after the first bytes of its answer."""
    async with world.post(body, headers=KEY) as response:
        await response.content.readany()
        response.close()
    await until(lambda: world.relay.in_flight == 1)
