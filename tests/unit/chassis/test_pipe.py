"""The Pipe over real gRPC on loopback: coalescing, errors, rights, bounds, cancellation."""

import asyncio
from typing import Any

import pytest
from google.protobuf.message import Message

from chassis.errors import Code, TollbridgeError
from chassis.rpc import CallContext
from tests.patience import promised
from tests.unit.chassis.pipe_rig import Gate, ask, client, eventually, named, refused, server
from tollbridge.auth.v1 import auth_pb2


async def test_two_thousand_concurrent_calls_share_few_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls of a loop turn leave in one frame and every caller gets its own answer."""
    running = server(named("a"))
    pipe = await client(await running.start())
    await ask(pipe)
    frames = 0
    receive = pipe._replicas.copy().popitem()[1]._receive

    def counting(frame: Any) -> None:
        nonlocal frames
        frames += 1
        receive(frame)

    monkeypatch.setattr(pipe._replicas.copy().popitem()[1], "_receive", counting, raising=False)
    answers = await asyncio.gather(*(ask(pipe, str(n)) for n in range(2000)))
    await pipe.close()
    await running.stop(1)
    assert [answer.id for answer in answers] == [str(n) for n in range(2000)]
    assert frames < 400


async def test_the_callers_name_and_trace_reach_the_handler() -> None:
    """A handler can't tell a pipe from a unary call."""
    running = server(named("a"))
    pipe = await client(await running.start())
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    answer = await ask(pipe, traceparent=trace)
    await pipe.close()
    await running.stop(1)
    assert (answer.plan, answer.email) == ("edge", trace)


async def test_errors_cross_the_pipe_intact() -> None:
    """Code, message, details and retry time arrive as they were raised."""

    async def refuse(_request: Any, _context: CallContext) -> Message:
        raise TollbridgeError(Code.BALANCE_RESERVED, "wait", details={"held": "7"}, retry_after_s=2.5)

    running = server(refuse)
    pipe = await client(await running.start())
    error = await refused(pipe)
    await pipe.close()
    await running.stop(1)
    assert (error.code, error.message, error.details, error.retry_after_s) == (
        Code.BALANCE_RESERVED,
        "wait",
        {"held": "7"},
        2.5,
    )


async def test_an_unknown_exception_becomes_internal() -> None:
    """A bug in a handler ends its call, not the stream."""

    async def broken(_request: Any, _context: CallContext) -> Message:
        raise RuntimeError("secret detail")

    running = server(broken)
    pipe = await client(await running.start())
    first, second = await refused(pipe), await refused(pipe)
    await pipe.close()
    await running.stop(1)
    assert first.code is second.code is Code.INTERNAL
    assert "secret" not in first.message


async def test_a_wrong_token_never_gets_through() -> None:
    """Our own wrong secret is our outage: callers hear that the service can't be reached."""
    served: list[str] = []
    running = server(named("a", served))
    pipe = await client(await running.start(), token="edge:wrong")
    error = await refused(pipe, timeout_s=0.5)
    await pipe.close()
    await running.stop(1)
    assert (error.code, error.retry_after_s, served) == (Code.UNAVAILABLE, 1, [])


async def test_rights_are_checked_for_each_method() -> None:
    """A stream that is let in may still not call what doesn't list its name."""
    running = server(named("a"), callers=frozenset({"cli"}))
    pipe = await client(await running.start())
    error = await refused(pipe)
    await pipe.close()
    await running.stop(1)
    assert error.code is Code.PERMISSION_DENIED


async def test_the_largest_messages_pass_and_larger_ones_are_refused() -> None:
    """Several large messages at once go out in frames that gRPC takes; one above 21 MiB is the caller's mistake."""
    running = server(named("a"))
    pipe = await client(await running.start())
    small, large = "x" * (1 << 19), "x" * ((21 << 20) - 100)
    answers = await asyncio.gather(*(ask(pipe, text) for text in (small, large, small, large)))
    error = await refused(pipe, customer_id="x" * (21 << 20))
    await pipe.close()
    await running.stop(1)
    assert [len(answer.id) for answer in answers] == [len(small), len(large), len(small), len(large)]
    assert error.code is Code.REQUEST_TOO_LARGE


async def test_a_method_that_is_not_there_is_refused() -> None:
    """An unknown method is an answer, not a silence."""
    running = server(named("a"))
    pipe = await client(await running.start())
    with pytest.raises(TollbridgeError) as caught:
        await pipe.call("Nothing", auth_pb2.GetCustomerRequest(), auth_pb2.GetCustomerResponse, timeout_s=30)
    await pipe.close()
    await running.stop(1)
    assert caught.value.code is Code.METHOD_NOT_ALLOWED


async def test_a_timeout_ends_the_call_on_both_sides() -> None:
    """The caller stops waiting in time, and the handler is cancelled."""
    gate = Gate("a")
    running = server(gate.run)
    pipe = await client(await running.start())
    gate.open.set()
    await ask(pipe)  # it is connected
    gate.open.clear()
    started = asyncio.get_running_loop().time()
    error = await refused(pipe, timeout_s=0.5)
    took_s = asyncio.get_running_loop().time() - started
    await eventually(lambda: gate.cancelled == 1)
    await pipe.close()
    await running.stop(1)
    assert (error.code, error.retry_after_s) == (Code.DEADLINE_EXCEEDED, 1)
    assert took_s < promised(2)


async def test_cancelling_a_caller_cancels_its_handler() -> None:
    """Work that nobody waits for stops, and the other calls of the stream go on."""
    gate = Gate("a")
    running = server(gate.run)
    pipe = await client(await running.start())
    leaving, staying = asyncio.create_task(ask(pipe, "x")), asyncio.create_task(ask(pipe, "y"))
    await eventually(lambda: gate.entered == 2)
    leaving.cancel()
    await eventually(lambda: gate.cancelled == 1)
    gate.open.set()
    assert (await staying).id == "y"
    assert leaving.cancelled()
    await pipe.close()
    await running.stop(1)


async def test_handlers_are_cancelled_when_the_client_is_gone() -> None:
    """A stream owns its calls: none outlives it."""
    gate = Gate("a")
    running = server(gate.run)
    pipe = await client(await running.start())
    waiting = asyncio.create_task(refused(pipe))
    await eventually(lambda: gate.entered == 1)
    await pipe.close()
    await eventually(lambda: gate.cancelled == 1)
    assert (await waiting).code is Code.UNAVAILABLE
    await running.stop(1)
