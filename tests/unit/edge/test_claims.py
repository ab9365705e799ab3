"""What billing is told of the claims that edge works on."""

from uuid import uuid4

from services.edge.idempotency.claims import Claims
from tollbridge.billing.v1 import claims_pb2 as pb


class Pipe:
    """Billing, which is told what runs while it makes a claim."""

    def __init__(self) -> None:
        self.claims = Claims(pipe=self, spender=uuid4())  # type: ignore[arg-type]  # as far as it is used
        self.stated: list[list[str]] = []

    async def call(self, method, request, _response_type, **_options):
        if method == "StateClaims":
            self.stated.append(list(request.call_ids))
            return pb.StateClaimsResponse(renew_in_s=10)
        await self.claims.state()
        return pb.ClaimResponse(state=pb.CLAIM_STATE_NEW, request_id=request.call_id)


async def test_a_claim_is_stated_once_it_is_made_and_not_before():
    """Billing would answer that it is lost, and an operator would look for a reason."""
    pipe, call_id = Pipe(), str(uuid4())
    await pipe.claims.claim(customer_id="c", key="k", body_hash=b"", call_id=call_id)
    assert pipe.stated == []
    await pipe.claims.state()
    assert pipe.stated == [[call_id]]
