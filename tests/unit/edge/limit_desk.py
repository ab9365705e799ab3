"""Auth's keeping of limits, as simple as it can be: one truth in memory, exact to the millisecond."""

import dataclasses
import time

from chassis.rpc import CallContext
from tollbridge.auth.v1 import auth_pb2

WINDOW_MS = 60_250
CONCURRENT = auth_pb2.LIMIT_KIND_CONCURRENT


@dataclasses.dataclass
class Row:
    """What one spender holds of one limit."""

    held: int = 0
    spent: int = 0
    since: int = 0
    number: int = 0


class LimitDesk:
    """The truth about limits, by subject and kind; `now_ms` may be set by a test."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, int], dict[str, Row]] = {}
        self.counts: dict[tuple[str, int], list[tuple[int, int]]] = {}
        self.now_ms = lambda: time.monotonic_ns() // 1_000_000
        self.leased = 0
        self.methods = {"LeaseLimits": self.lease, "StateLimits": self.state}

    def counted(self, subject: str, kind: int) -> int:
        """Units that count as spent now."""
        oldest = self.now_ms() - WINDOW_MS
        return sum(units for at_ms, units in self.counts.get((subject, kind), ()) if at_ms > oldest)

    def held(self, subject: str, kind: int) -> int:
        """Units that all spenders hold."""
        return sum(row.held for row in self.rows.get((subject, kind), {}).values())

    async def lease(self, request: auth_pb2.LeaseLimitsRequest, _: CallContext) -> auth_pb2.LeaseLimitsResponse:
        """One statement and its answer."""
        return self.answer(request)

    def answer(self, request: auth_pb2.LeaseLimitsRequest) -> auth_pb2.LeaseLimitsResponse:
        """The same, without a server."""
        self.leased += 1
        return auth_pb2.LeaseLimitsResponse(leases=[self._one(request, said) for said in request.limits], ttl_s=30)

    def _one(self, request: auth_pb2.LeaseLimitsRequest, said: auth_pb2.LimitStatement) -> auth_pb2.LimitLease:
        at = (request.subject, said.kind)
        row = self.rows.setdefault(at, {}).setdefault(request.spender, Row())
        counts = self.counts.setdefault(at, [])
        if request.number > row.number:
            new = said.spent - (row.spent if row.since == request.since else 0)
            for spent in sorted(said.lately, key=lambda one: one.age_ms):
                units, new = min(spent.units, new), new - min(spent.units, new)
                counts.append((self.now_ms() - spent.age_ms, units))
            row.held, row.spent, row.since, row.number = said.open, said.spent, request.since, request.number
            left = self._left(at, said.limit)
            needed = max(0, min(said.needed, left))
            spare = max(0, min(said.wanted - said.open - said.needed, (left - needed) // 16))
            row.held += needed + spare
        short = said.needed - (row.held - said.open)
        left = self._left(at, said.limit)
        return auth_pb2.LimitLease(
            kind=said.kind,
            held=row.held,
            remaining=max(0, left + row.held - said.open),
            retry_after_ms=self._retry_after_ms(at, short) if short > 0 else 0,
        )

    def _left(self, at: tuple[str, int], limit: int) -> int:
        return limit - self.counted(*at) - self.held(*at)

    def _retry_after_ms(self, at: tuple[str, int], short: int) -> int:
        if at[1] == CONCURRENT:
            return 1000
        for at_ms, units in sorted(self.counts.get(at, ())):
            if at_ms > self.now_ms() - WINDOW_MS:
                short -= units
                if short <= 0:
                    return min(60_000, at_ms + WINDOW_MS - self.now_ms())
        return 60_000

    async def state(self, request: auth_pb2.StateLimitsRequest, _: CallContext) -> auth_pb2.StateLimitsResponse:
        """A full statement: what is not listed is freed, units of windows count as spent now."""
        for (subject, kind), rows in self.rows.items():
            row = rows.get(request.spender)
            if row is None or row.number > request.as_of:
                continue
            if request.spender_ended or subject not in request.subjects:
                if kind != CONCURRENT and row.held:
                    self.counts.setdefault((subject, kind), []).append((self.now_ms(), row.held))
                del rows[request.spender]
        return auth_pb2.StateLimitsResponse(renew_in_s=10)
