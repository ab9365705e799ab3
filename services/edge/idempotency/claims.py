"""Edge's claims on idempotency keys, at billing: making them, stating them while their requests run, ending them.

A claim is stated from when it was made until its end. When billing can't be told of an end, or we are not told that it
made one, the claim lapses by itself, and the next call finds out what came of it.
"""

import asyncio
import dataclasses
import enum
import hashlib
from collections.abc import Iterable
from uuid import UUID

import structlog

from chassis.errors import Code, TollbridgeError
from chassis.pipe import PipeClient
from tollbridge.billing.v1 import claims_pb2

HEADER = b"idempotency-key"
MAX_KEY = 255
CLAIM_TIMEOUT_S = 0.9
STATE_TIMEOUT_S = 5.0
STATEMENT_EVERY_S = 10.0
RETRY_STATEMENT_S = 1.0
MAX_STATED = 10_000
RETRY_AFTER_S = 2.0


class Outcome(enum.Enum):
    """How a call's work on its claim ended.

    ANSWERED: never again. RELEASED: as if the key had not been used. LAPSED: the next call goes on under the same id.
    """

    ANSWERED = claims_pb2.CLAIM_OUTCOME_ANSWERED
    RELEASED = claims_pb2.CLAIM_OUTCOME_RELEASED
    LAPSED = claims_pb2.CLAIM_OUTCOME_LAPSED


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A key that is this call's, or (`answered`) that was run before. `taken_over` from a call that fell silent."""

    call_id: str
    request_id: UUID
    taken_over: bool
    answered: bool


def key_of(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """The client's key, None without one. Raises INVALID_REQUEST for one that can't be."""
    values = {value.strip() for name, value in headers if name == HEADER}
    if not values:
        return None
    key = values.pop().decode("latin-1")
    if values or not 1 <= len(key) <= MAX_KEY or not (key.isascii() and key.isprintable()):
        message = f"Idempotency-Key must be one key of 1 to {MAX_KEY} printable characters."
        raise TollbridgeError(Code.INVALID_REQUEST, message, details={"param": "Idempotency-Key"})
    return key


def fingerprint(*, method: str, path: str, body: bytes) -> bytes:
    """What a key stands for."""
    digest = hashlib.sha256(f"{method} {path}\0".encode())
    digest.update(body)
    return digest.digest()


class Claims:
    """One incarnation's claims. Its owner runs `run()` as a task."""

    def __init__(self, *, pipe: PipeClient, spender: UUID) -> None:
        self._pipe = pipe
        self._spender = str(spender)
        self._running: set[str] = set()
        self._log = structlog.get_logger()

    async def claim(self, *, customer_id: str, key: str, body_hash: bytes, call_id: str) -> Claim:
        """Claims the key for this call. Raises CONFLICT while another runs it, IDEMPOTENCY_MISMATCH, UNAVAILABLE.

        A claim that is not `answered` is the caller's to `end`.
        """
        reply = await self._pipe.call(
            "Claim",
            claims_pb2.ClaimRequest(
                customer_id=customer_id, key=key, body_hash=body_hash, call_id=call_id, spender=self._spender
            ),
            claims_pb2.ClaimResponse,
            key=customer_id,
            timeout_s=CLAIM_TIMEOUT_S,
        )
        if reply.state in (claims_pb2.CLAIM_STATE_NEW, claims_pb2.CLAIM_STATE_TAKEN_OVER):
            self._running.add(call_id)
        if reply.state == claims_pb2.CLAIM_STATE_MISMATCH:
            message = "This Idempotency-Key was used for another request."
            raise TollbridgeError(Code.IDEMPOTENCY_MISMATCH, message, details={"param": "Idempotency-Key"})
        if reply.state == claims_pb2.CLAIM_STATE_RUNNING:
            message = "A request with this Idempotency-Key is running."
            raise TollbridgeError(Code.CONFLICT, message, retry_after_s=RETRY_AFTER_S)
        return Claim(
            call_id=call_id,
            request_id=UUID(reply.request_id),
            taken_over=reply.state == claims_pb2.CLAIM_STATE_TAKEN_OVER,
            answered=reply.state == claims_pb2.CLAIM_STATE_ANSWERED,
        )

    async def end(self, claim: Claim, outcome: Outcome) -> None:
        """Ends the work on it. What billing can't be told lapses by itself."""
        self._running.discard(claim.call_id)
        try:
            await self._pipe.call(
                "EndClaim",
                claims_pb2.EndClaimRequest(call_id=claim.call_id, outcome=outcome.value),
                claims_pb2.EndClaimResponse,
                key=claim.call_id,
                timeout_s=CLAIM_TIMEOUT_S,
            )
        except TollbridgeError as error:
            self._log.warning("claim_not_ended", outcome=outcome.name.lower(), code=error.code.value)

    async def run(self) -> None:
        """States what runs until cancelled."""
        while True:
            due_s = await self.state()
            await asyncio.sleep(due_s)

    async def state(self) -> float:
        """One statement; the seconds until the next is due."""
        stated = list(self._running)
        try:
            for start in range(0, len(stated), MAX_STATED):
                page = stated[start : start + MAX_STATED]
                reply = await self._state(call_ids=page, spender=self._spender)
                lost = self._running.intersection(reply.lost)
                if lost:  # they run on: of two ends of a request billing charges one
                    self._log.warning("claims_lost", claims=len(lost))
        except TollbridgeError as error:
            self._log.warning("claim_statement_failed", code=error.code.value, claims=len(stated))
            return RETRY_STATEMENT_S
        return STATEMENT_EVERY_S

    async def end_spender(self, spender: str) -> None:
        """A former incarnation is no more: what it worked on may be taken over at once. Raises UNAVAILABLE."""
        await self._state(call_ids=(), spender=spender, ended=True)

    async def _state(
        self, *, call_ids: Iterable[str], spender: str, ended: bool = False
    ) -> claims_pb2.StateClaimsResponse:
        return await self._pipe.call(
            "StateClaims",
            claims_pb2.StateClaimsRequest(spender=spender, call_ids=call_ids, spender_ended=ended),
            claims_pb2.StateClaimsResponse,
            key=spender,
            timeout_s=STATE_TIMEOUT_S,
        )
