"""Telling that a balance is low or exhausted, on the bus and by webhook, from within the outbox's own transaction.

A webhook is stored in that transaction and delivered later, so that a receiver who is slow holds up nobody's events.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from urllib.parse import quote

from chassis.bus import Bus
from chassis.db import Connection
from pricing.prices import usd_text
from services.billing import events
from services.billing.alerts import alert_store, balance_events
from services.billing.alerts.alert_store import Alert
from services.billing.alerts.balance_events import BalanceEvent, Level, Lines, Step
from services.billing.config import BillingConfig
from services.billing.ledger import credits_account
from services.billing.receipts.receipt_document import rfc3339
from services.billing.written import Written
from tollbridge.billing.v1 import statements_pb2

_SUBJECTS = {Level.LOW: events.BALANCE_LOW, Level.EXHAUSTED: events.BALANCE_EXHAUSTED}
_NONE = Alert(customer_id="")


class BalanceNotices:
    """Finds the crossings among transfers that leave, and publishes them."""

    def __init__(self, *, bus: Bus, config: Callable[[], BillingConfig]) -> None:
        self._bus = bus
        self._config = config

    async def tell(self, connection: Connection, leaving: Iterable[Written]) -> None:
        """Publishes every crossing and stores its webhook; told again, each has the id that it had.

        Raises UNAVAILABLE.
        """
        steps = _steps(leaving)
        alerts = await alert_store.read(connection, {step.customer_id for step in steps})
        config = self._config()
        otherwise = Lines(
            low_nano_usd=config.low_balance_nano_usd, exhausted_nano_usd=config.exhausted_balance_nano_usd
        )
        found = balance_events.found(steps, _lines(alerts, otherwise), otherwise=otherwise)
        for event in found:
            subject = _SUBJECTS[event.level]
            await self._bus.publish(
                subject.replace("*", subject_token(event.step.customer_id)),
                _message(event).SerializeToString(),
                event_id=str(event.id),
                event_type=subject.removesuffix(".*"),
                source="billing",
            )
        told = [event for event in found if alerts.get(event.step.customer_id, _NONE).url]
        await alert_store.add(connection, [(event.id, event.step.customer_id, _body(event)) for event in told])


def subject_token(customer_id: str) -> str:
    """A customer's id as one token of a subject: what means something there, or in URLs, is percent-encoded."""
    return quote(customer_id, safe="").replace(".", "%2E").replace("~", "%7E")


def _lines(alerts: Mapping[str, Alert], otherwise: Lines) -> dict[str, Lines]:
    return {
        customer_id: Lines(low_nano_usd=alert.low_nano_usd, exhausted_nano_usd=otherwise.exhausted_nano_usd)
        for customer_id, alert in alerts.items()
        if alert.low_nano_usd is not None
    }


def _body(event: BalanceEvent) -> bytes:
    """The webhook, shaped as Standard Webhooks recommends."""
    shown = {
        "type": f"balance.{event.level}",
        "timestamp": rfc3339(event.step.at_us),
        "data": {
            "customer_id": event.step.customer_id,
            "sequence": event.sequence,
            "balance": usd_text(event.step.balance_nano_usd),
            "threshold": usd_text(event.line_nano_usd),
            "transfer_id": str(event.step.transfer_id),
        },
    }
    return json.dumps(shown).encode()


def _message(event: BalanceEvent) -> statements_pb2.BalanceCrossed:
    return statements_pb2.BalanceCrossed(
        id=str(event.id),
        customer_id=event.step.customer_id,
        balance_nano_usd=event.step.balance_nano_usd,
        line_nano_usd=event.line_nano_usd,
        transfer_id=str(event.step.transfer_id),
        at_us=event.step.at_us,
    )


def _steps(leaving: Iterable[Written]) -> list[Step]:
    steps = []
    for written in leaving:
        for moved in written.transfers:
            if moved.customer_id is None or moved.version is None or moved.balance_after_nano_usd is None:
                continue
            is_credit = moved.credit == credits_account(moved.customer_id)
            steps.append(
                Step(
                    transfer_id=moved.id,
                    customer_id=moved.customer_id,
                    version=moved.version,
                    change_nano_usd=moved.amount_nano_usd if is_credit else -moved.amount_nano_usd,
                    balance_nano_usd=moved.balance_after_nano_usd,
                    at_us=written.created_at_us,
                )
            )
    return steps
