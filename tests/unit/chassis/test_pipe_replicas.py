"""The Pipe between several replicas: failover, draining, keys that stay, names that are resolved."""

import asyncio
from typing import Any

import grpc
import pytest

from chassis.errors import Code
from chassis.pipe import PipeClient
from chassis.settings import SettingsError
from tests.unit.chassis.pipe_rig import AUTH, Gate, ask, client, eventually, named, off, refused, server


async def test_unanswered_calls_fail_over_when_their_replica_dies() -> None:
    """The death of a replica costs its callers nothing but time."""
    gates = [Gate("a"), Gate("b")]
    servers = [server(gate.run) for gate in gates]
    pipe = await client(*[await running.start() for running in servers])
    await eventually(lambda: len(pipe._choice) == 2)
    calls = [asyncio.create_task(ask(pipe, str(n))) for n in range(20)]
    await eventually(lambda: sum(gate.entered for gate in gates) == 20)
    assert gates[0].entered == 10, "the least busy replica is chosen"
    await servers[0].stop(0)
    gates[1].open.set()
    answers = await asyncio.gather(*calls)
    await pipe.close()
    await servers[1].stop(1)
    assert [answer.id for answer in answers] == [str(n) for n in range(20)]
    assert {answer.name for answer in answers} == {"b"}


async def test_a_replica_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stopped process keeps its sockets open: only its silence tells, and its calls go elsewhere."""
    monkeypatch.setattr("chassis.pipe_replica.PING_S", 0.05)
    monkeypatch.setattr("chassis.pipe_replica.SILENCE_S", 0.4)
    asked: list[Any] = []

    async def hang(_requests: Any, context: Any) -> None:
        await context.write(b"")
        while True:
            asked.append(await context.read())

    hung, well = grpc.aio.server(), server(named("b"))
    handlers = {"Pipe": grpc.stream_stream_rpc_method_handler(hang)}
    hung.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(AUTH.full_name, handlers)])
    port = hung.add_insecure_port("127.0.0.1:0")
    await hung.start()
    pipe = await client(f"127.0.0.1:{port}")
    call = asyncio.create_task(ask(pipe))
    await eventually(lambda: any(asked))
    await pipe._set_targets({*pipe._replicas, await well.start()})
    assert (await call).name == "b"
    await pipe.close()
    await hung.stop(0)
    await well.stop(1)


async def test_a_pipe_that_is_closed_as_its_server_ends_the_stream_knocks_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """gRPC may then tell of the server's end in place of the cancellation: nobody else would end that replica."""
    monkeypatch.setattr("chassis.pipe_replica.END_LIMIT_S", 0.5)
    began: list[asyncio.Event] = []

    class Channel:
        def stream_stream(self, *_: object) -> Any:
            return lambda **_: self

        async def read(self) -> None:
            began.append(asyncio.Event())
            try:
                await began[-1].wait()
            except asyncio.CancelledError:
                if len(began) > 1:
                    raise
                nothing = grpc.aio.Metadata()
                raise grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, nothing, nothing) from None

        def cancel(self) -> None: ...

        async def close(self) -> None: ...

    monkeypatch.setattr(grpc.aio, "insecure_channel", lambda *_: Channel())
    pipe = await client("127.0.0.1:1")
    await eventually(lambda: len(began) == 1)
    await pipe.close()
    assert len(began) == 1


async def test_a_call_waits_for_a_replica_that_comes_back() -> None:
    """With no replica left, calls wait for one until their own timeout."""
    first = server(named("a"))
    address = await first.start()
    pipe = await client(address)
    assert (await ask(pipe)).name == "a"
    await first.stop(0)
    waiting = asyncio.create_task(ask(pipe, timeout_s=20))
    error = await refused(pipe, timeout_s=0.2)
    second = server(named("b"), bind=address)
    await second.start()
    assert (await waiting).name == "b"
    assert (error.code, error.retry_after_s) == (Code.UNAVAILABLE, 1)
    await pipe.close()
    await second.stop(1)


async def test_draining_moves_new_calls_and_answers_running_ones() -> None:
    """A replica that is about to stop loses no call."""
    gate, served = Gate("a"), []
    draining, other = server(gate.run), server(named("b", served))
    pipe = await client(await draining.start())
    running = asyncio.create_task(ask(pipe, "old"))
    await eventually(lambda: gate.entered == 1)
    await pipe._set_targets({*pipe._replicas, await other.start()})
    await eventually(lambda: len(pipe._choice) == 2)
    await draining.drain()
    await eventually(lambda: len(pipe._choice) == 1)
    names = {(await ask(pipe, str(n), key=str(n))).name for n in range(20)}
    gate.open.set()
    assert names == {"b"}
    assert (await running).name == "a"
    await draining.stop(1)
    await pipe.close()
    await other.stop(1)


async def test_stopping_within_the_grace_answers_what_runs() -> None:
    """`stop` ends the streams only after their running calls are answered."""
    gate = Gate("a")
    running = server(gate.run)
    pipe = await client(await running.start())
    call = asyncio.create_task(ask(pipe))
    await eventually(lambda: gate.entered == 1)
    stopping = asyncio.create_task(running.stop(10))
    await asyncio.wait({stopping}, timeout=0.2)
    assert not stopping.done()
    gate.open.set()
    assert (await call).name == "a"
    await asyncio.wait_for(stopping, 9)
    await pipe.close()


async def test_a_successor_on_the_same_address_takes_over_and_is_there_before_its_predecessor_goes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The only replica is replaced: whoever asks meanwhile is answered at once, by the one or by the other."""
    former = server(named("former"), reuse_port=True)
    address = await former.start()
    pipe = await client(address)
    answered: list[str] = []

    async def keep_asking() -> None:
        while "successor" not in answered:
            answered.append((await ask(pipe, timeout_s=30)).name)

    asking = [asyncio.create_task(keep_asking()) for _ in range(4)]
    await eventually(lambda: "former" in answered)
    changed, reachable = pipe.changed, [True]
    monkeypatch.setattr(pipe, "changed", lambda: (changed(), reachable.append(pipe.reachable)))
    successor = server(named("successor"), bind=address, reuse_port=True)
    assert await successor.start() == address
    await former.leave(0.05, 5)
    async with asyncio.timeout(30):
        await asyncio.gather(*asking)
    await eventually(lambda: not pipe._former)
    assert all(reachable)
    await pipe.close()
    await successor.stop(0)


async def test_a_slow_call_at_the_only_replica_keeps_nobody_from_its_successor() -> None:
    """Whoever asks while the former one ends a slow call is answered at once, and the slow call where it was asked."""
    slow = Gate("former")
    former = server(slow.run, reuse_port=True)
    address = await former.start()
    pipe = await client(address)
    waiting = asyncio.create_task(ask(pipe, "slow", timeout_s=60))
    await eventually(lambda: slow.entered == 1)
    successor = server(named("successor"), bind=address, reuse_port=True)
    await successor.start()
    leaving = asyncio.create_task(former.leave(0, 60))
    await eventually(lambda: bool(pipe._former) and any(not each.draining for each in pipe._choice))
    async with asyncio.timeout(30):
        assert (await ask(pipe, "quick", timeout_s=30)).name == "successor"
        slow.open.set()
        assert (await waiting).name == "former"
        await leaving
    assert slow.cancelled == 0
    await pipe.close()
    await successor.stop(0)


async def test_a_call_that_meets_a_leaving_replica_without_a_successor_waits_for_one() -> None:
    """So does what still ran there: it is asked once more."""
    slow = Gate("former")
    former = server(slow.run, reuse_port=True)
    address = await former.start()
    pipe = await client(address)
    calls = [asyncio.create_task(ask(pipe, "slow", timeout_s=60))]
    await eventually(lambda: slow.entered == 1)
    leaving = asyncio.create_task(former.leave(0, 60))
    await eventually(lambda: bool(pipe._former))
    calls.append(asyncio.create_task(ask(pipe, "late", timeout_s=60)))
    await asyncio.wait_for(leaving, 30)
    successor = server(named("successor"), bind=address, reuse_port=True)
    await successor.start()
    assert {answer.name for answer in await asyncio.gather(*calls)} == {"successor"}
    assert slow.cancelled == 1
    await pipe.close()
    await successor.stop(0)


async def test_a_taken_address_is_an_error_unless_it_is_to_be_shared() -> None:
    """Two that don't know of each other never share a port by chance."""
    first = server(named("first"))
    address = await first.start()
    with pytest.raises(RuntimeError):
        await server(named("second"), bind=address).start()
    await first.stop(0)


async def test_a_key_stays_with_its_replica_while_it_lives() -> None:
    """Equal keys meet the same replica, and different keys share the replicas out."""
    servers = [server(named(name)) for name in "abc"]
    pipe = await client(*[await running.start() for running in servers])
    await eventually(lambda: len(pipe._choice) == 3)
    first = [(await ask(pipe, key=f"key {n}")).name for n in range(60)]
    again = [(await ask(pipe, key=f"key {n}")).name for n in range(60)]
    assert first == again
    assert min(first.count(name) for name in "abc") >= 8
    victim = first[0]
    await servers["abc".index(victim)].stop(0)
    await eventually(lambda: len(pipe._choice) == 2)
    after = [(await ask(pipe, key=f"key {n}")).name for n in range(60)]
    await pipe.close()
    for running in servers:
        await running.stop(1)
    assert all(now == before for before, now in zip(first, after, strict=True) if before != victim)


async def test_waiting_for_a_slot_counts_against_the_timeout() -> None:
    """In-flight calls are bounded, those that wait are in turn, and beyond a bound they are refused at once."""
    gate = Gate("a")
    running = server(gate.run)
    pipe = await client(await running.start(), max_in_flight=2)
    holding = [asyncio.create_task(ask(pipe, str(n))) for n in range(2)]
    await eventually(lambda: gate.entered == 2)
    late = await refused(pipe, timeout_s=0.2)
    waiting = [asyncio.create_task(ask(pipe, str(n))) for n in range(8)]
    await asyncio.sleep(0)
    overloaded = await refused(pipe)
    entered = gate.entered
    gate.open.set()
    await asyncio.gather(*holding, *waiting)
    await pipe.close()
    await running.stop(1)
    assert entered == 2
    assert (late.code, overloaded.code) == (Code.UNAVAILABLE, Code.OVERLOADED)


async def test_a_name_is_resolved_to_its_replicas() -> None:
    """One DNS name stands for all replicas behind it."""
    running = server(named("a"))
    port = (await running.start()).rpartition(":")[2]
    pipe = await client(f"localhost:{port}")
    assert (await ask(pipe)).name == "a"
    await pipe.close()
    await running.stop(1)


def test_an_address_that_is_none_is_a_wrong_setting() -> None:
    """A service that can't know whom to ask says so at its start."""
    for addresses in ("", "auth", "auth:x"):
        with pytest.raises(SettingsError):
            PipeClient(descriptor=AUTH, addresses=addresses, token="", tracer=off())
