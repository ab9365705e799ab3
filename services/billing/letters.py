"""Dead letters and what an operator does about them: look, and resolve each once.

A letter is resolved by the charge that is right, by a void, or by dropping it. All three let go of the hold that it
kept, unless another letter keeps it too. A dropped letter's hold then ends by its own time, since the request's real
event may still come; a corrected charge is the operator's word and is not checked against the price.
"""

import enum
import time
from collections.abc import Callable
from uuid import UUID

from google.protobuf.message import DecodeError

from chassis import db
from chassis.db import Connection
from chassis.errors import Code, TollbridgeError
from services.billing import charges, letter_store, store
from services.billing.books import Books
from services.billing.ledger import MAX_AMOUNT, Poison, UsageKind
from services.billing.letter_store import Letter
from tollbridge.usage.v1 import usage_pb2

MAX_LISTED = 1000


class Resolution(enum.StrEnum):
    """What an operator decides."""

    CHARGE = "charge"
    VOID = "void"
    DROP = "drop"


class DeadLetters:
    """Reads and resolves. Safe to repeat: a letter that was resolved the same way is shown as it is."""

    def __init__(self, *, pool: db.Pool, kept_days: Callable[[], int]) -> None:
        self._pool = pool
        self._kept_days = kept_days

    async def list(self, *, resolved_too: bool) -> list[Letter]:
        """The newest MAX_LISTED letters, open ones unless the others are wanted too."""
        async with db.transaction(self._pool) as connection:
            return await letter_store.page(connection, resolved_too=resolved_too, limit=MAX_LISTED)

    async def get(self, letter_id: UUID) -> Letter:
        """One letter. Raises NOT_FOUND."""
        async with db.transaction(self._pool) as connection:
            return _found(await letter_store.read(connection, letter_id))

    async def resolve(
        self, letter_id: UUID, resolution: Resolution, *, charge_nano_usd: int = 0, by: str, because: str
    ) -> Letter:
        """Resolves a letter and lets go of its hold; returns it as it then is.

        Raises NOT_FOUND, INVALID_REQUEST when it can't be resolved in that way, and CONFLICT when it was resolved in
        another way or the request was charged meanwhile.
        """
        if (resolution is Resolution.CHARGE) != (0 < charge_nano_usd <= MAX_AMOUNT):
            raise TollbridgeError(Code.INVALID_REQUEST, "a charge has an amount within range, and nothing else has one")

        async def work(connection: Connection) -> Letter:
            letter = _found(await letter_store.read(connection, letter_id))
            books = await store.lock_books(
                connection,
                customer_ids=[letter.customer_id],
                hold_ids=[letter.hold_id] if letter.hold_id else [],
                request_ids=[letter.request_id] if letter.request_id else [],
            )
            letter = _found(await letter_store.lock(connection, letter_id))
            if letter.resolution:
                return _same(letter, resolution, charge_nano_usd)
            others = await letter_store.open_of_holds(connection, books.holds, but=letter.id)
            books.kept_for(others)
            await letter_store.resolve(
                connection, letter.id, resolution=resolution, by=by, because=because, charge_nano_usd=charge_nano_usd
            )
            if letter.hold_id in books.holds and letter.customer_id == books.holds[letter.hold_id].customer_id:
                books.let_go(letter.hold_id)
            if resolution is Resolution.DROP:
                await store.save_books(connection, books)
            else:
                await self._apply(connection, books, letter, UsageKind(resolution), charge_nano_usd)
            return _found(await letter_store.read(connection, letter.id))

        return await db.in_transaction(self._pool, work)

    async def _apply(
        self, connection: Connection, books: Books, letter: Letter, kind: UsageKind, charge_nano_usd: int
    ) -> None:
        within = charges.window(now_ms=time.time_ns() // 1_000_000, kept_days=self._kept_days())
        try:
            event = usage_pb2.UsageRecorded.FromString(letter.recorded)
            corrected = charges.corrected(event, kind=kind, charge_nano_usd=charge_nano_usd, within=within)
            if (corrected.request_id, UsageKind.CHARGE) in books.applied:
                raise TollbridgeError(Code.CONFLICT, "the request was charged meanwhile: drop the letter")
            settled = books.settle(corrected)
        except (Poison, DecodeError) as error:
            raise TollbridgeError(Code.INVALID_REQUEST, f"it can only be dropped: {error}") from error
        rows = [] if settled.duplicate else [corrected.line(settled)]
        await store.save_books(connection, books, usage=rows)
        await letter_store.supersede(
            connection,
            applied=[corrected.request_id],
            charged=[corrected.request_id] if kind is UsageKind.CHARGE else [],
        )


def _found(letter: Letter | None) -> Letter:
    if letter is None:
        raise TollbridgeError(Code.NOT_FOUND, "no such dead letter")
    return letter


def _same(letter: Letter, resolution: Resolution, charge_nano_usd: int) -> Letter:
    if (letter.resolution, letter.resolved_charge_nano_usd) != (resolution, charge_nano_usd):
        raise TollbridgeError(Code.CONFLICT, f"it was resolved before: {letter.resolution}")
    return letter
