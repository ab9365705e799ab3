"""A request with an `Idempotency-Key`: run once, charged once, and answered with the same bytes ever after.

The order of an end that charges: the answer is kept, the claim is ended, *finished* goes into the spool, the last bytes
leave. Wherever a process dies in that, the next call under the key finds either an answer, which it gives out together
with its charge, or none, and then runs the request under the first one's id, which billing charges once. What costs
nothing (a refusal, a failure, a void) frees the key before its client hears of it.

A client that leaves doesn't end such a request: it is read on, within the provider's limits for draining, since the
client will ask again.
"""

import asyncio
from collections.abc import MutableMapping
from typing import Any, Protocol
from uuid import UUID

import structlog

from chassis.errors import Code, TollbridgeError
from services.edge.http.reply import Header, Send
from services.edge.idempotency.answers import MAX_ANSWER_BYTES, Answers, KeptAnswer
from services.edge.idempotency.claims import Claim, Claims, Outcome
from tollbridge.usage.v1 import usage_pb2

Message = MutableMapping[str, Any]
_OF_ONE_ANSWER = (b"x-request-id", b"x-ratelimit-")
"""Headers that each answer has its own of."""


class Adopter(Protocol):
    """Who writes down and hands on an event that another process made (`settlement.Settlement`)."""

    def adopt(self, event: usage_pb2.UsageRecorded) -> None: ...


class Idempotency:
    """Decides what becomes of a request that has a key."""

    def __init__(self, *, claims: Claims, answers: Answers, adopter: Adopter) -> None:
        self._claims = claims
        self._answers = answers
        self._adopter = adopter
        self._log = structlog.get_logger()

    async def begin(self, *, customer_id: str, key: str, body_hash: bytes, call_id: str) -> "Turn | KeptAnswer":
        """The turn to run it, or the answer that it had.

        Raises CONFLICT while it runs elsewhere or when its answer is not kept, IDEMPOTENCY_MISMATCH, and UNAVAILABLE
        when its answer could not be kept: nothing runs then.
        """
        await self._answers.check()
        claim = await self._claims.claim(customer_id=customer_id, key=key, body_hash=body_hash, call_id=call_id)
        if not claim.taken_over and not claim.answered:
            return Turn(claim=claim, claims=self._claims, answers=self._answers)
        try:
            found = await self._answers.find(str(claim.request_id))
            if found is not None:
                self._adopter.adopt(usage_pb2.UsageRecorded.FromString(found.event))
        except BaseException:  # stated on, the claim would never come to an end
            if not claim.answered:
                await self._claims.end(claim, Outcome.LAPSED)
            raise
        if found is not None:
            if not claim.answered:
                await self._claims.end(claim, Outcome.ANSWERED)
            return found
        if claim.answered:
            message = f"The answer to this Idempotency-Key is not kept any more; its request was {claim.request_id}."
            raise TollbridgeError(Code.CONFLICT, message, details={"should_retry": "false"})
        self._log.warning("request_taken_over", request_id=str(claim.request_id))
        return Turn(claim=claim, claims=self._claims, answers=self._answers)


class Turn:
    """One run of a request that has a key. Everything that its client is sent goes through here and is remembered."""

    def __init__(self, *, claim: Claim, claims: Claims, answers: Answers) -> None:
        self._claim = claim
        self._claims = claims
        self._answers = answers
        self._send: Send | None = None
        self._left = False
        self._ended = False
        self._status = 200
        self._headers: list[Header] = []
        self._body = bytearray()
        self._log = structlog.get_logger()

    @property
    def request_id(self) -> UUID:
        """The id that the request runs under: the first call's."""
        return self._claim.request_id

    def before(self, send: Send) -> Send:
        """What is to be sent to instead of `send`."""
        self._send = send
        return self._pass

    def client_left(self) -> None:
        """From now on nothing is sent, only remembered."""
        self._left = True

    async def keep(self, rest: bytes, event: usage_pb2.UsageRecorded, *, headers: list[Header] | None = None) -> None:
        """Keeps what was sent so far and `rest` as the answer, and ends the claim. `headers` where none were sent yet.

        An answer that can't be kept is lost to later calls; that it was given is not.
        """
        answer = KeptAnswer(
            request_id=str(self.request_id),
            status=self._status,
            headers=self._headers if headers is None else headers,
            body=bytes(self._body) + rest,
            event=event.SerializeToString(),
        )
        try:
            if len(answer.body) > MAX_ANSWER_BYTES:
                raise TollbridgeError(Code.REQUEST_TOO_LARGE, "the answer is too large")
            await self._answers.keep(answer)
        except TollbridgeError as error:
            self._log.error("answer_not_kept", request_id=answer.request_id, code=error.code.value)
        await self._end(Outcome.ANSWERED)

    async def end(self, *, charged: bool) -> None:
        """The run is over, however it ended; does nothing after `keep`."""
        await self._end(Outcome.ANSWERED if charged else self._freed)

    @property
    def _freed(self) -> Outcome:
        # A first runner that only seemed dead may still charge under this id: it stays the key's.
        return Outcome.LAPSED if self._claim.taken_over else Outcome.RELEASED

    async def _end(self, outcome: Outcome) -> None:
        if self._ended:
            return
        self._ended = True
        # Told to the end even when the run is cancelled, for at most the call's timeout.
        await asyncio.shield(self._claims.end(self._claim, outcome))

    async def _pass(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            self._headers = [each for each in message["headers"] if not each[0].startswith(_OF_ONE_ANSWER)]
        else:
            if len(self._body) <= MAX_ANSWER_BYTES:
                self._body += message["body"]
            if not message.get("more_body", False):
                await self._end(self._freed)
        if not self._left and self._send is not None:
            await self._send(message)
