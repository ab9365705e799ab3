"""The gRPC face of leased limits: convert, one call, convert back."""

from uuid import UUID

from chassis.errors import Code, TollbridgeError
from chassis.ids import uuid_of
from chassis.rpc import CallContext, Handler
from services.auth.limit_desk import RENEW_IN_S, TTL_S, LimitDesk
from services.auth.limit_store import Page
from services.auth.limit_windows import Kind, Outcome, Statement
from tollbridge.auth.v1 import auth_pb2 as pb

MAX_LISTED = 10_000
MAX_NUMBER = 2**62
MAX_UNITS = 10**15

_KIND_FROM_WIRE = {
    pb.LIMIT_KIND_REQUESTS: Kind.REQUESTS,
    pb.LIMIT_KIND_TOKENS: Kind.TOKENS,
    pb.LIMIT_KIND_CONCURRENT: Kind.CONCURRENT,
}
_KIND_TO_WIRE = {kind: wire for wire, kind in _KIND_FROM_WIRE.items()}


class LimitServer:
    """The handlers."""

    def __init__(self, *, desk: LimitDesk) -> None:
        self._desk = desk

    def handlers(self, callers: frozenset[str]) -> dict[str, Handler]:
        """By method's name."""
        return {
            "LeaseLimits": Handler(run=self.lease_limits, callers=callers),
            "StateLimits": Handler(run=self.state_limits, callers=callers),
        }

    async def lease_limits(self, request: pb.LeaseLimitsRequest, _: CallContext) -> pb.LeaseLimitsResponse:
        said = [_statement(one) for one in request.limits]
        if not said or len({one.kind for one in said}) != len(said):
            raise _invalid("limits", "names each kind at most once, and at least one")
        outcomes = await self._desk.lease(
            said,
            spender=uuid_of(request.spender, "spender"),
            subject=uuid_of(request.subject, "subject"),
            since=_number(request.since, "since"),
            number=_number(request.number, "number"),
        )
        return pb.LeaseLimitsResponse(leases=map(_lease, outcomes), ttl_s=TTL_S)

    async def state_limits(self, request: pb.StateLimitsRequest, _: CallContext) -> pb.StateLimitsResponse:
        spender = uuid_of(request.spender, "spender")
        if len(request.subjects) > MAX_LISTED:
            raise _invalid("subjects", f"are at most {MAX_LISTED} in one page")
        if request.spender_ended:
            await self._desk.end(spender)
            return pb.StateLimitsResponse(renew_in_s=RENEW_IN_S)
        page = Page(
            spender=spender,
            as_of=_number(request.as_of, "as_of"),
            listed=frozenset(uuid_of(one, "subjects") for one in request.subjects),
            from_id=_uuid_or_none(request.from_id, "from_id"),
            until_id=_uuid_or_none(request.until_id, "until_id"),
        )
        await self._desk.state(page)
        return pb.StateLimitsResponse(renew_in_s=RENEW_IN_S)


def _statement(said: pb.LimitStatement) -> Statement:
    if said.kind not in _KIND_FROM_WIRE:
        raise _invalid("limits", "has a kind that is not known")
    kind = _KIND_FROM_WIRE[said.kind]
    amounts = (said.spent, said.open, said.wanted, said.needed, *(one.units for one in said.lately))
    if said.limit <= 0 or not 0 <= min(amounts) <= max(amounts) <= MAX_UNITS or said.limit > MAX_UNITS:
        raise _invalid("limits", "has an amount out of range")
    if said.spent and not kind.has_window:
        raise _invalid("limits", "has concurrent units that were spent")
    return Statement(
        kind=kind,
        limit=said.limit,
        spent=said.spent,
        lately=[(one.units, one.age_ms) for one in said.lately],
        open=said.open,
        wanted=said.wanted,
        needed=said.needed,
    )


def _lease(outcome: Outcome) -> pb.LimitLease:
    return pb.LimitLease(
        kind=_KIND_TO_WIRE[outcome.kind],
        held=outcome.lease.held,
        remaining=outcome.remaining,
        retry_after_ms=outcome.retry_after_ms,
    )


def _number(number: int, param: str) -> int:
    if not 0 <= number <= MAX_NUMBER:
        raise _invalid(param, "is out of range")
    return number


def _uuid_or_none(text: str, param: str) -> UUID | None:
    return uuid_of(text, param) if text else None


def _invalid(param: str, what: str) -> TollbridgeError:
    return TollbridgeError(Code.INVALID_REQUEST, f"{param} {what}.", details={"param": param})
