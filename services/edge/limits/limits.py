"""The limits of keys and customers, as this incarnation keeps them: who is let in, and what clients are told of it.

They are leased from auth (`allotment.py`), so that all replicas together never exceed one. Keys without limits don't
come here at all.
"""

import asyncio
from collections.abc import Callable

import structlog

from chassis.errors import TollbridgeError
from services.edge.limits.gate import Admitted, Gate, Keeper
from services.edge.limits.terms import Figures, Kind, Terms
from services.edge.spending.purse import lasting_clock

TICK_S = 1.0
TICKED_AT_ONCE = 500
"""Gates in one turn of the loop, a millisecond or two."""
STATEMENT_EVERY_S = 10.0
MIN_STATEMENT_S = 1.0
FRESH_S = 1.0
"""How old what a client is told may be."""
LOOK_S = 0.25
"""How long an answer may wait for fresher figures."""
DRAIN_S = 2.0


class Limits:
    """One incarnation's gates. Its owner runs `run()` as a task and calls `drain()` at the end."""

    def __init__(self, *, keeper: Keeper, clock: Callable[[], float] = lasting_clock) -> None:
        self._keeper = keeper
        self._clock = clock
        self._gates: dict[str, Gate] = {}
        self._last_number = 0
        self._told_at_s = clock()
        self._log = structlog.get_logger()

    def __len__(self) -> int:
        """Subjects of which something is known here."""
        return len(self._gates)

    @property
    def told_at_s(self) -> float:
        """When auth was last asked to keep all that is held, and did; now, while nothing is."""
        return self._told_at_s if self._gates else self._clock()

    async def admit(self, terms: Terms, *, tokens: int) -> Admitted:
        """Lets one request in that may take so many tokens.

        Raises RATE_LIMIT_EXCEEDED, CONCURRENCY_LIMIT_EXCEEDED, OVERLOADED, UNAVAILABLE; cancelled, nothing is drawn.
        """
        if terms.own is None:
            return await self._gate(terms).admit(terms, tokens)
        own = await self._gate(terms.own).admit(terms.own, tokens)
        try:
            admitted = await self._gate(terms).admit(terms, tokens)
        except BaseException:
            own.end()
            raise
        admitted.beside = own
        return admitted

    def check(self, terms: Terms) -> None:
        """Raises RATE_LIMIT_EXCEEDED where a request was refused a moment ago and any other would be."""
        if terms.own is not None:
            self.check(terms.own)
        gate = self._gates.get(terms.subject)
        if gate is not None:
            gate.check(1)

    async def look(self, terms: Terms) -> None:
        """Asks auth how much is left, unless that is known; raises nothing."""
        gate = self._gate(terms)
        gate.allotment.limit_by(terms)
        looking = gate.look(fresh_s=FRESH_S, within_s=LOOK_S)
        if terms.own is None:
            await looking
        else:
            await asyncio.gather(looking, self.look(terms.own))

    def figures(self, terms: Terms) -> dict[Kind, Figures]:
        """What is known of each kind that is limited; where two limits hold, of the one that is nearer."""
        gate = self._gate(terms)
        gate.allotment.limit_by(terms)
        found = gate.allotment.figures(self._clock())
        if terms.own is not None:
            for kind, figures in self.figures(terms.own).items():
                shared = found.get(kind, figures)
                found[kind] = min(figures, shared, key=lambda each: (each.remaining, each.limit))
        return found

    async def run(self) -> None:
        """Tells auth every second what it has not heard, and every few that we live, until cancelled."""
        loop = asyncio.get_running_loop()
        due_s = loop.time()
        while True:
            await self.tick()
            if loop.time() >= due_s:
                due_s = loop.time() + await self.state()
            await asyncio.sleep(max(0.0, min(TICK_S, due_s - loop.time())))

    async def tick(self) -> None:
        """Looks at every gate once, and lets others run meanwhile."""
        for index, (subject, gate) in enumerate(list(self._gates.items()), start=1):
            if not gate.tick():
                del self._gates[subject]
            if index % TICKED_AT_ONCE == 0:
                await asyncio.sleep(0)

    async def state(self) -> float:
        """One full statement; returns the seconds until the next."""
        gates, asked_at_s = list(self._gates.values()), self._clock()
        if not self._last_number:
            self._told_at_s = asked_at_s
            return STATEMENT_EVERY_S  # nothing was ever leased
        try:
            renew_in_s = await self._keeper.state_limits(list(self._gates), as_of=self._last_number)
        except TollbridgeError as error:
            self._log.warning("limit_statement_failed", code=error.code.value, subjects=len(gates))
            return MIN_STATEMENT_S
        for gate in gates:
            gate.allotment.renew(asked_at_s)
        self._told_at_s = asked_at_s
        return max(MIN_STATEMENT_S, min(renew_in_s or STATEMENT_EVERY_S, STATEMENT_EVERY_S))

    async def drain(self) -> None:
        """The last words: what was spent, and that nothing is held any more. Called when nothing runs."""
        if not self._last_number:
            return
        telling = [asyncio.ensure_future(gate.tell()) for gate in self._gates.values()]
        if telling:
            _, late = await asyncio.wait(telling, timeout=DRAIN_S)
            for task in late:
                task.cancel()
        try:
            await self._keeper.end(as_of=self._last_number)
        except TollbridgeError as error:
            self._log.warning("limits_not_ended", code=error.code.value)

    def _gate(self, terms: Terms) -> Gate:
        gate = self._gates.get(terms.subject)
        if gate is None:
            gate = self._gates[terms.subject] = Gate(
                subject=terms.subject, keeper=self._keeper, next_number=self._next_number, clock=self._clock
            )
        return gate

    def _next_number(self) -> int:
        self._last_number += 1
        return self._last_number
