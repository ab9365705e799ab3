"""Answers of requests with an idempotency key: kept by request id, so that a repetition gets the same bytes.

With the answer goes the usage event that charges it. Who finds an answer hands that event on again, so that an answer
that was kept by a process which then died is charged when, and only when, it is given out; billing applies it once.
"""

from typing import Protocol

import msgspec

from chassis.errors import Code, TollbridgeError
from services.edge.http.reply import Header

MAX_ANSWER_BYTES = 64 << 20
BUCKET = "tollbridge-answers"
KEPT_S = 25 * 3600
"""An hour longer than billing's claim on the key."""
MAX_BUCKET_BYTES = 8 << 30


class KeptAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What the client got, or was to get: status, headers without the request id, body; `event` is a UsageRecorded."""

    request_id: str
    status: int
    headers: list[Header]
    body: bytes
    event: bytes


class Store(Protocol):
    """Where the bytes are (`chassis.bucket.Bucket`)."""

    async def check(self) -> None: ...

    async def put(self, name: str, data: bytes) -> None: ...

    async def get(self, name: str) -> bytes | None: ...


class Answers:
    """The answers that are kept."""

    def __init__(self, *, store: Store) -> None:
        self._store = store

    async def check(self) -> None:
        """Returns when answers can be kept. Raises UNAVAILABLE."""
        await self._store.check()

    async def keep(self, answer: KeptAnswer) -> None:
        """Keeps it. Raises UNAVAILABLE."""
        await self._store.put(answer.request_id, msgspec.msgpack.encode(answer))

    async def find(self, request_id: str) -> KeptAnswer | None:
        """The answer to this request, None when there is none (any more). Raises UNAVAILABLE."""
        data = await self._store.get(request_id)
        if data is None:
            return None
        try:
            return msgspec.msgpack.decode(data, type=KeptAnswer)
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            raise TollbridgeError(Code.INTERNAL, "The kept answer can't be read.") from error
