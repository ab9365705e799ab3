"""Which edges run, and with which configuration: each tells all others, since nobody has their addresses.

It is told on the bus, to whoever listens: without a bus an edge knows of itself only, and one that has been silent for
some seconds is no more.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from google.protobuf.message import DecodeError

from chassis.config_state import ConfigState
from chassis.errors import TollbridgeError
from services.edge import events
from tollbridge.edge.v1 import edge_pb2

TELL_EVERY_S = 2.0
LOOK_EVERY_S = 0.1
SILENT_S = 7.0
MOST_PEERS = 1000


class Announcer(Protocol):
    """The bus, as far as it is needed here."""

    async def announce(self, subject: str, data: bytes) -> None:
        """Raises UNAVAILABLE."""


class Peers:
    """The edges that this one has heard of, itself among them. `run` is a loop that the process's lifecycle owns."""

    def __init__(
        self, *, name: str, own: Callable[[], ConfigState], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.name = name
        self._own = own
        self._clock = clock
        self._heard: dict[str, tuple[float, ConfigState]] = {}

    def states(self) -> Mapping[str, ConfigState]:
        """By name, this one as it is now."""
        self._forget_silent()
        heard = {name: state for name, (_, state) in self._heard.items()}
        return dict(sorted((heard | {self.name: self._own()}).items()))

    async def run(self, bus: Announcer) -> None:
        """Tells of this edge until cancelled."""
        while True:
            state = self._own()
            told = edge_pb2.EdgeRunning(
                name=self.name, hash=state.hash, loaded_at_us=state.loaded_at_us, error=state.error
            )
            try:
                await bus.announce(events.EDGE_RUNNING, told.SerializeToString())
            except TollbridgeError:  # the bus says itself that it is away
                self._forget_silent()
            await self._until_due(state)

    async def _until_due(self, told: ConfigState) -> None:
        """Until it is time to tell again: soon after a change, since whoever made it looks whether all have it."""
        for _ in range(round(TELL_EVERY_S / LOOK_EVERY_S)):
            await asyncio.sleep(LOOK_EVERY_S)
            if self._own() != told:
                return

    async def on_message(self, data: bytes) -> None:
        """Somebody runs."""
        try:
            said = edge_pb2.EdgeRunning.FromString(data)
        except DecodeError:
            return
        self._forget_silent()
        if said.name in self._heard or len(self._heard) < MOST_PEERS:
            state = ConfigState(hash=said.hash, loaded_at_us=said.loaded_at_us, error=said.error)
            self._heard[said.name] = (self._clock(), state)

    def _forget_silent(self) -> None:
        oldest = self._clock() - SILENT_S
        self._heard = {name: heard for name, heard in self._heard.items() if heard[0] >= oldest}
