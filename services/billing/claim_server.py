"""gRPC in for claims: each method converts, makes one call, and converts back."""

from chassis.errors import Code, TollbridgeError
from chassis.ids import uuid_of
from chassis.rpc import CallContext, Handler, RpcService
from services.billing import charges
from services.billing.claim_store import Asked
from services.billing.idempotency import RENEW_IN_S, Claims, Outcome, Verdict
from tollbridge.billing.v1 import claims_pb2 as pb

EDGE = frozenset({"edge"})
MAX_KEY = 255
MAX_SPENDER = 200
MAX_STATED = 10_000
HASH_BYTES = 32

_STATES = {
    Verdict.NEW: pb.CLAIM_STATE_NEW,
    Verdict.TAKEN_OVER: pb.CLAIM_STATE_TAKEN_OVER,
    Verdict.RUNNING: pb.CLAIM_STATE_RUNNING,
    Verdict.ANSWERED: pb.CLAIM_STATE_ANSWERED,
    Verdict.MISMATCH: pb.CLAIM_STATE_MISMATCH,
}
_OUTCOMES = {
    pb.CLAIM_OUTCOME_ANSWERED: Outcome.ANSWERED,
    pb.CLAIM_OUTCOME_RELEASED: Outcome.RELEASED,
    pb.CLAIM_OUTCOME_LAPSED: Outcome.LAPSED,
}


class ClaimServer:
    """The methods of ClaimService."""

    def __init__(self, *, claims: Claims) -> None:
        self._claims = claims

    def service(self) -> RpcService:
        """Every method with those who may call it; a call is safe to repeat by its own ids."""
        handlers = {
            "Claim": Handler(self.claim, EDGE),
            "StateClaims": Handler(self.state_claims, EDGE),
            "EndClaim": Handler(self.end_claim, EDGE),
        }
        return RpcService(descriptor=pb.DESCRIPTOR.services_by_name["ClaimService"], handlers=handlers)

    async def claim(self, request: pb.ClaimRequest, _: CallContext) -> pb.ClaimResponse:
        if not charges.is_customer_id(request.customer_id):
            raise _invalid("customer_id")
        if not 1 <= len(request.key) <= MAX_KEY or not request.key.isprintable():
            raise _invalid("key")
        if len(request.body_hash) != HASH_BYTES:
            raise _invalid("body_hash")
        asked = Asked(
            customer_id=request.customer_id,
            key=request.key,
            body_hash=request.body_hash,
            call_id=uuid_of(request.call_id, "call_id"),
            spender=_spender(request.spender),
        )
        verdict, request_id = await self._claims.claim(asked)
        named = "" if verdict is Verdict.MISMATCH else str(request_id)
        return pb.ClaimResponse(state=_STATES[verdict], request_id=named)

    async def state_claims(self, request: pb.StateClaimsRequest, _: CallContext) -> pb.StateClaimsResponse:
        if len(request.call_ids) > MAX_STATED:
            raise _invalid("call_ids")
        lost = await self._claims.state(
            spender=_spender(request.spender),
            call_ids=[uuid_of(call_id, "call_ids") for call_id in request.call_ids],
            spender_ended=request.spender_ended,
        )
        return pb.StateClaimsResponse(renew_in_s=RENEW_IN_S, lost=map(str, lost))

    async def end_claim(self, request: pb.EndClaimRequest, _: CallContext) -> pb.EndClaimResponse:
        outcome = _OUTCOMES.get(request.outcome)
        if outcome is None:
            raise _invalid("outcome")
        await self._claims.end(uuid_of(request.call_id, "call_id"), outcome)
        return pb.EndClaimResponse()


def _spender(text: str) -> str:
    if not 1 <= len(text) <= MAX_SPENDER or not text.isprintable():
        raise _invalid("spender")
    return text


def _invalid(name: str) -> TollbridgeError:
    return TollbridgeError(Code.INVALID_REQUEST, f"{name} is missing or malformed", details={"param": name})
