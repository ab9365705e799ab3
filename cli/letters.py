"""`ledger dead-letters` and `ledger resolve`: events that billing set aside, and what an operator decides of them."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from uuid import UUID

import msgspec

from chassis.errors import Code, TollbridgeError
from cli.admin import show_table
from cli.audited import audited
from cli.running import NotRunning, find_database
from pricing.prices import nano_usd, usd_text

if TYPE_CHECKING:
    from services.billing.letter_store import Letter
    from services.billing.letters import DeadLetters

T = TypeVar("T")
DONE, REFUSED, NOT_READABLE = 0, 1, 2
MIN_POOL_WAIT_S = 10.0


def show_all(data_dir: Path | None, *, resolved_too: bool, as_json: bool) -> int:
    """Prints the letters, the newest first; returns 0, or 2 when there is nothing to read."""

    async def work(letters: "DeadLetters") -> int:
        found = [_shown(letter) for letter in await letters.list(resolved_too=resolved_too)]
        if as_json:
            print(json.dumps(found))
        else:
            show_table(found, ("id", "request_id", "kind", "customer_id", "reason", "resolution"))
        return DONE

    return _run(data_dir, work)


def resolve(data_dir: Path | None, letter_id: UUID, *, how: str, charge_usd: str, by: str, because: str) -> int:
    """Resolves a letter, or only shows it when `how` is empty. Returns 0, 1 when it is refused, 2 without a ledger."""

    async def work(letters: "DeadLetters") -> int:
        from services.billing.letters import Resolution

        letter = await letters.get(letter_id)
        if how:
            charge = nano_usd(Decimal(charge_usd)) if charge_usd else 0
            letter = await letters.resolve(letter_id, Resolution(how), charge_nano_usd=charge, by=by, because=because)
        print(json.dumps({**_shown(letter), "event": _event(letter)}, indent=2))
        return DONE

    if not how:
        return _run(data_dir, work)
    asked = {"letter_id": str(letter_id), "how": how, "charge_usd": charge_usd, "because": because}
    return audited(data_dir, "ledger resolve", asked, lambda: _run(data_dir, work), by=by)


def _run(data_dir: Path | None, work: "Callable[[DeadLetters], Awaitable[int]]") -> int:
    from chassis import db
    from services.billing import config
    from services.billing.letters import DeadLetters

    async def connected(url: str) -> int:
        pool = await db.open_pool(url, role="billing")
        try:
            await pool.wait(MIN_POOL_WAIT_S)
            return await work(DeadLetters(pool=pool, kept_days=lambda: config.defaults().usage_kept_days))
        finally:
            await pool.close()

    try:
        return asyncio.run(connected(find_database(data_dir)))
    except TollbridgeError as error:
        print(error.message, file=sys.stderr)
        return NOT_READABLE if error.code is Code.UNAVAILABLE else REFUSED
    except (ValueError, ArithmeticError) as error:
        print(f"--charge is no amount in USD: {error!r}", file=sys.stderr)
        return REFUSED
    except (NotRunning, OSError) as error:
        print(f"the ledger can't be read: {error}", file=sys.stderr)
        return NOT_READABLE


def _shown(letter: "Letter") -> dict[str, object]:
    fields: dict[str, object] = msgspec.to_builtins(letter)
    fields.pop("recorded")
    fields["resolved_charge_usd"] = usd_text(letter.resolved_charge_nano_usd)
    return fields


def _event(letter: "Letter") -> object:
    """The event as it came, or its bytes when it is none."""
    from google.protobuf.json_format import MessageToDict
    from google.protobuf.message import DecodeError

    from tollbridge.usage.v1 import usage_pb2

    try:
        return MessageToDict(usage_pb2.UsageRecorded.FromString(letter.recorded), preserving_proto_field_name=True)
    except DecodeError:
        return letter.recorded.hex()
