"""A seeded schedule of faults: processes are killed and stopped, networks cut, swallow and delay; in the end all heals.

Two schedules run beside each other, one for processes and one for networks, so that troubles meet. The seed fixes what
is done in which order and for how long.
"""

import asyncio
import contextlib
import dataclasses
import os
import random
import signal
from collections import Counter
from collections.abc import Callable

from tests.conftest import RunningServer
from tests.faults.toxic_proxy import ToxicProxy
from tests.integration.running import Gateway

SERVICES = (
    ("edge", 0),
    ("edge", 1),
    ("router", 0),
    ("router", 1),
    ("billing", 0),
    ("auth", 0),
    ("tasks", 0),
)


@dataclasses.dataclass(kw_only=True)
class Striker:
    """All that can be struck. `said` counts what was done."""

    gateway: Gateway
    servers: dict[str, RunningServer]
    networks: dict[str, ToxicProxy]
    dice: random.Random
    said: Counter[str] = dataclasses.field(default_factory=Counter)
    _stopped: set[int] = dataclasses.field(default_factory=set)

    async def strike_until(self, stop: asyncio.Event) -> None:
        """Strikes until told to stop, then heals everything."""
        processes, networks = (random.Random(self.dice.random()) for _ in range(2))
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._repeat(self._hit_a_process, processes, stop))
                both.create_task(self._repeat(self._harm_a_network, networks, stop))
        finally:
            await asyncio.to_thread(self.heal)

    async def _repeat(self, strike: Callable[..., object], dice: random.Random, stop: asyncio.Event) -> None:
        while not await _stops_within(stop, dice.uniform(0.5, 2.5)):
            await strike(dice, stop)  # type: ignore[misc]  # both are coroutine functions

    async def _hit_a_process(self, dice: random.Random, stop: asyncio.Event) -> None:
        name, replica = dice.choice((*SERVICES, *((server, 0) for server in self.servers)))
        how, for_s = dice.choice(("kill", "stop")), dice.uniform(0.3, 4.0)
        self.said[f"{how} {name}"] += 1
        if name in self.servers and how == "kill":
            await asyncio.to_thread(self.servers[name].kill)
            await _stops_within(stop, for_s)
            await asyncio.to_thread(self.servers[name].start)
            return
        pid = self._pid(name, replica)
        if pid is None:
            return
        if how == "kill":
            _signal(pid, signal.SIGKILL)
            return
        self._stopped.add(pid)
        _signal(pid, signal.SIGSTOP)
        await _stops_within(stop, for_s)
        _signal(pid, signal.SIGCONT)
        self._stopped.discard(pid)

    async def _harm_a_network(self, dice: random.Random, stop: asyncio.Event) -> None:
        name = dice.choice(sorted(self.networks))
        network = self.networks[name]
        how = dice.choice(("reset", "refuse", "blackhole", "latency", "cut"))
        if how == "cut" and name != "provider":
            how = "reset"
        self.said[f"{how} {name}"] += 1
        for_s = dice.uniform(0.3, 4.0)
        harms: dict[str, dict[str, object]] = {
            "refuse": {"refuse": True},
            "blackhole": {"blackhole": True},
            "latency": {"latency_s": dice.uniform(0.02, 0.3)},
            "cut": {"cut_after_bytes": dice.randint(500, 20_000)},
        }
        if how in harms:
            await asyncio.to_thread(lambda: network.harm(**harms[how]))
        if how in ("reset", "refuse"):
            await asyncio.to_thread(network.reset_all)
        if how != "reset":
            await _stops_within(stop, for_s)
            await asyncio.to_thread(network.heal)

    def _pid(self, name: str, replica: int) -> int | None:
        if name in self.servers:
            return self.servers[name].pid
        with contextlib.suppress(AssertionError, ValueError):
            return self.gateway.pid(name, replica)
        return None

    def heal(self) -> None:
        """Networks pass, what was stopped goes on, and servers run."""
        for network in self.networks.values():
            network.heal()
        for pid in self._stopped:
            _signal(pid, signal.SIGCONT)
        for server in self.servers.values():
            if not server.runs:
                server.start()


async def _stops_within(stop: asyncio.Event, seconds: float) -> bool:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)
    return stop.is_set()


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
