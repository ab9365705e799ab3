"""Billing's claims and the store of answers, in memory, with the switches that a test needs."""

import dataclasses

from chassis.errors import Code, TollbridgeError
from chassis.rpc import CallContext
from tollbridge.billing.v1 import claims_pb2 as pb


@dataclasses.dataclass
class Held:
    """A claim."""

    body_hash: bytes
    request_id: str
    call_id: str
    answered: bool = False
    alive: bool = True


class ClaimDesk:
    """ClaimService as billing means it; `up` false is a billing that can't be reached."""

    def __init__(self) -> None:
        self.held: dict[str, Held] = {}
        self.up = True
        self.stated: list[str] = []
        self.ended: list[str] = []
        """Spenders that are no more."""

    @property
    def methods(self) -> dict:
        """What the server is given."""
        return {"Claim": self.claim, "StateClaims": self.state, "EndClaim": self.end}

    async def claim(self, request: pb.ClaimRequest, _: CallContext) -> pb.ClaimResponse:
        self._check()
        held = self.held.get(request.key)
        if held is None:
            self.held[request.key] = Held(request.body_hash, request.call_id, request.call_id)
            return pb.ClaimResponse(state=pb.CLAIM_STATE_NEW, request_id=request.call_id)
        if held.body_hash != request.body_hash:
            return pb.ClaimResponse(state=pb.CLAIM_STATE_MISMATCH)
        if held.answered:
            return pb.ClaimResponse(state=pb.CLAIM_STATE_ANSWERED, request_id=held.request_id)
        if held.alive:
            return pb.ClaimResponse(state=pb.CLAIM_STATE_RUNNING, request_id=held.request_id)
        held.call_id, held.alive = request.call_id, True
        return pb.ClaimResponse(state=pb.CLAIM_STATE_TAKEN_OVER, request_id=held.request_id)

    async def state(self, request: pb.StateClaimsRequest, _: CallContext) -> pb.StateClaimsResponse:
        self._check()
        if request.spender_ended:
            self.ended.append(request.spender)
        else:
            self.stated = list(request.call_ids)
        return pb.StateClaimsResponse(renew_in_s=10)

    async def end(self, request: pb.EndClaimRequest, _: CallContext) -> pb.EndClaimResponse:
        self._check()
        for key, held in list(self.held.items()):
            if held.call_id != request.call_id or held.answered:
                continue
            if request.outcome == pb.CLAIM_OUTCOME_RELEASED:
                del self.held[key]
            held.answered = request.outcome == pb.CLAIM_OUTCOME_ANSWERED
            held.alive = False
        return pb.EndClaimResponse()

    def _check(self) -> None:
        if not self.up:
            raise TollbridgeError(Code.UNAVAILABLE, "away", retry_after_s=1)


class Shelf:
    """The store of answers; `up` false is one that can't be reached, `takes` false one that keeps nothing new."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}
        self.up = True
        self.takes = True

    async def check(self) -> None:
        self._check(self.up)

    async def put(self, name: str, data: bytes) -> None:
        self._check(self.up and self.takes)
        self.kept[name] = data

    async def get(self, name: str) -> bytes | None:
        self._check(self.up)
        return self.kept.get(name)

    def _check(self, works: bool) -> None:
        if not works:
            raise TollbridgeError(Code.UNAVAILABLE, "away", retry_after_s=1)


NOBODY = object()
"""In place of claims where no request has a key."""
