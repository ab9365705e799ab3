"""The relay: what every exchange needs, and the owner of their tasks.

An exchange outlives its connection, so its task belongs here. At the end of the process `drain` waits for the running
ones and then cuts them; a cut exchange ends its accounts before it ends.
"""

import asyncio
import collections
import dataclasses
import time
from collections.abc import Callable, Coroutine

import structlog

from chassis.telemetry import Tracer
from services.edge.catalogue import Catalogue
from services.edge.http.awake import AwakeTime
from services.edge.http.body_room import BodyRoom
from services.edge.http.door import MOST_INSIDE, Door
from services.edge.idempotency.keyed_request import Idempotency
from services.edge.limits.limits import Limits
from services.edge.metrics import EdgeMetrics
from services.edge.owners import RouterOwner
from services.edge.paid.admission import Admission
from services.edge.paid.attempts import Attempts
from services.edge.paid.opening import Providers
from services.edge.paid.refusals import Refusals
from services.edge.spending.settlement import Settlement
from upstream.route import Route

CUT_GRACE_S = 3.0
"""How long cut exchanges may take to close their tabs."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What an exchange works with."""

    admission: Admission
    limits: Limits
    router: RouterOwner
    attempts: Attempts
    settlement: Settlement
    idempotency: Idempotency
    providers: Providers
    catalogue: Catalogue
    metrics: EdgeMetrics
    tracer: Tracer
    refusals: Refusals = dataclasses.field(default_factory=Refusals)


class Relay:
    """Runs exchanges. Its owner runs `awake.run()` as a task, and calls `drain` before purse, publisher and spool are
    closed."""

    def __init__(self, *, tools: Tools, max_requests: int = MOST_INSIDE) -> None:
        self.tools = tools
        self.door = Door(clock=time.monotonic, most_inside=max_requests)
        self.bodies = BodyRoom()
        self.awake = AwakeTime()
        self.log = structlog.get_logger()
        self._running: dict[asyncio.Task[None], Callable[[], None]] = {}
        self._draining: collections.Counter[str] = collections.Counter()

    @property
    def in_flight(self) -> int:
        """Exchanges that have not ended; those whose client is gone count."""
        return len(self._running)

    def start(self, run: Coroutine[object, object, None], *, cut: Callable[[], None]) -> asyncio.Task[None]:
        """Runs an exchange in a task of ours. `cut` must make it end soon."""
        task = asyncio.create_task(run, name="exchange")
        self._running[task] = cut
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._running[task]
        if not task.cancelled() and (error := task.exception()) is not None:
            self.log.error("exchange_broke", exc_info=error)

    def begin_drain(self, route: Route) -> bool:
        """Takes one of the provider's places for streams that are read on without a client; False when none is left."""
        if self._draining[route.provider_id] >= route.drain_at_once:
            return False
        self._draining[route.provider_id] += 1
        return True

    def end_drain(self, route: Route) -> None:
        """Gives the place back."""
        self._draining[route.provider_id] -= 1

    def cut(self) -> int:
        """Ends all that runs now, as our failure; how much that was."""
        for cut in list(self._running.values()):
            cut()
        return len(self._running)

    async def drain(self, *, grace_s: float) -> None:
        """Waits for running exchanges, at most `grace_s`, then cuts what is left and waits for its accounts."""
        if self._running:
            await asyncio.wait(list(self._running), timeout=grace_s)
        left = dict(self._running)
        for cut in left.values():
            cut()
        if left:
            _, stubborn = await asyncio.wait(left, timeout=CUT_GRACE_S)
            for task in stubborn:
                task.cancel()
            if stubborn:
                await asyncio.wait(stubborn, timeout=CUT_GRACE_S)
