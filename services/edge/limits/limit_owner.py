"""Edge's questions to auth about limits: domain values to messages and back. Errors are auth's."""

import dataclasses
from collections.abc import Mapping
from uuid import UUID

from chassis.pipe import PipeClient
from services.edge.limits.terms import Kind, LeaseOfKind, Statement, Terms
from tollbridge.auth.v1 import auth_pb2

LEASE_TIMEOUT_S = 0.9
STATE_TIMEOUT_S = 5.0
PAGE = 5000
ALL = (1 << 63) - 1
"""Newer than any statement: of an incarnation that is no more."""
_KINDS = {
    Kind.REQUESTS: auth_pb2.LIMIT_KIND_REQUESTS,
    Kind.TOKENS: auth_pb2.LIMIT_KIND_TOKENS,
    Kind.CONCURRENT: auth_pb2.LIMIT_KIND_CONCURRENT,
}


class LimitOwner:
    """Auth, as far as it keeps what limits allow."""

    def __init__(self, *, pipe: PipeClient, spender: UUID) -> None:
        self._pipe = pipe
        self._spender = str(spender)

    async def lease_limits(self, statement: Statement) -> tuple[Mapping[Kind, LeaseOfKind], float]:
        """See `gate.Keeper`. Raises UNAVAILABLE, also when it may have been heard."""
        reply = await self._pipe.call(
            "LeaseLimits",
            auth_pb2.LeaseLimitsRequest(
                spender=self._spender,
                subject=statement.subject,
                since=statement.since,
                number=statement.number,
                limits=[
                    auth_pb2.LimitStatement(
                        kind=_KINDS[each.kind],
                        limit=each.limit,
                        spent=each.spent,
                        lately=[auth_pb2.LimitSpent(units=spent.units, age_ms=spent.age_ms) for spent in each.lately],
                        open=each.open,
                        wanted=each.wanted,
                        needed=each.needed,
                    )
                    for each in statement.limits
                ],
            ),
            auth_pb2.LeaseLimitsResponse,
            key=statement.subject,
            timeout_s=LEASE_TIMEOUT_S,
        )
        leases = {
            Kind(lease.kind): LeaseOfKind(
                held=lease.held, remaining=lease.remaining, retry_after_s=lease.retry_after_ms / 1000
            )
            for lease in reply.leases
        }
        return leases, reply.ttl_s

    async def state_limits(self, subjects: list[str], *, as_of: int) -> float:
        """See `gate.Keeper`."""
        ordered, renew_in_s = sorted(subjects), 0.0
        for start in range(0, max(len(ordered), 1), PAGE):
            following = ordered[start + PAGE : start + PAGE + 1]
            reply = await self._pipe.call(
                "StateLimits",
                auth_pb2.StateLimitsRequest(
                    spender=self._spender,
                    as_of=as_of,
                    from_id=ordered[start] if start else "",
                    until_id=following[0] if following else "",
                    subjects=ordered[start : start + PAGE],
                ),
                auth_pb2.StateLimitsResponse,
                key=self._spender,
                timeout_s=STATE_TIMEOUT_S,
            )
            renew_in_s = reply.renew_in_s
        return renew_in_s

    async def end(self, *, as_of: int = ALL, spender: str = "") -> None:
        """The incarnation has ended, this one or a former one: all that it held is free."""
        await self._pipe.call(
            "StateLimits",
            auth_pb2.StateLimitsRequest(spender=spender or self._spender, spender_ended=True, as_of=as_of),
            auth_pb2.StateLimitsResponse,
            key=spender or self._spender,
            timeout_s=STATE_TIMEOUT_S,
        )


def terms_of(authority: auth_pb2.AuthorizeResponse) -> Terms | None:
    """What limits this key; None when nothing does."""
    subject = authority.customer_id if authority.limits.scope == "customer" else authority.key_id
    terms = _terms(subject, authority.limits)
    own = _terms(authority.key_id, authority.own_limits)
    return own if terms is None else dataclasses.replace(terms, own=own)


def _terms(subject: str, found: auth_pb2.Limits) -> Terms | None:
    numbers = {
        Kind.REQUESTS: found.requests_per_minute,
        Kind.TOKENS: found.tokens_per_minute,
        Kind.CONCURRENT: found.concurrent,
    }
    limits = {kind: number for kind, number in numbers.items() if number > 0}
    return Terms(subject=subject, limits=limits) if limits else None
