"""`ledger unmatched` and `ledger assign`: USDT that fits no payment, and to whom an operator gives it."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from chassis.errors import Code, TollbridgeError
from cli.admin import show_table
from cli.audited import audited
from cli.running import NotRunning, find_database
from pricing.prices import usd_text

if TYPE_CHECKING:
    from services.billing.payments.unmatched import Unmatched

DONE, REFUSED, NOT_READABLE = 0, 1, 2
MIN_POOL_WAIT_S = 10.0


def show_unmatched(data_dir: Path | None, *, as_json: bool) -> int:
    """Prints the transfers, the newest first; returns 0, or 2 when there is nothing to read."""

    async def work(unmatched: "Unmatched") -> int:
        found: list[dict[str, object]] = [msgspec.to_builtins(each) for each in await unmatched.list()]
        if as_json:
            print(json.dumps(found))
        else:
            show_table(found, ("transaction_id", "position", "sender", "amount_micro_usdt", "arrived_at"))
        return DONE

    return _run(data_dir, work)


def assign(data_dir: Path | None, transaction_id: str, position: int, *, customer_id: str) -> int:
    """Gives a transfer to a customer. Returns 0, 1 when it is refused, 2 without a ledger."""

    async def work(unmatched: "Unmatched") -> int:
        payment = await unmatched.assign(transaction_id, position, customer_id=customer_id)
        shown = {"payment_id": str(payment.id), "customer_id": customer_id}
        print(json.dumps(shown | {"credited_usd": usd_text(payment.credited_nano_usd)}))
        return DONE

    asked = {"transaction_id": transaction_id, "position": position, "customer_id": customer_id}
    return audited(data_dir, "ledger assign", asked, lambda: _run(data_dir, work))


def _run(data_dir: Path | None, work: "Callable[[Unmatched], Awaitable[int]]") -> int:
    import structlog
    from prometheus_client import CollectorRegistry

    from chassis import db
    from services.billing.figures import Figures
    from services.billing.payments.desk import PaymentDesk
    from services.billing.payments.unmatched import Unmatched

    async def connected(url: str) -> int:
        log = structlog.wrap_logger(structlog.PrintLogger(sys.stderr))
        pool = await db.open_pool(url, role="billing")
        try:
            await pool.wait(MIN_POOL_WAIT_S)
            desk = PaymentDesk(pool=pool, figures=Figures(registry=CollectorRegistry()), log=log)
            return await work(Unmatched(pool=pool, desk=desk, log=log))
        finally:
            await pool.close()

    try:
        return asyncio.run(connected(find_database(data_dir)))
    except TollbridgeError as error:
        print(error.message, file=sys.stderr)
        return NOT_READABLE if error.code is Code.UNAVAILABLE else REFUSED
    except (NotRunning, OSError) as error:
        print(f"the ledger can't be read: {error}", file=sys.stderr)
        return NOT_READABLE
