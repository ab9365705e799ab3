"""The objects of what customers are told (receipts, reports, balance alerts), built once by keyword by `parts`."""

from collections.abc import Callable, Coroutine, Mapping

from structlog.typing import FilteringBoundLogger

from chassis import db
from chassis.settings import SettingsError
from services.billing.alerts.at_rest import AtRestKeys
from services.billing.alerts.balance_alerts import BalanceAlerts
from services.billing.alerts.due_webhooks import DueWebhooks
from services.billing.config import BillingConfig
from services.billing.prices import PriceBook
from services.billing.receipts.receipt_keys import ReceiptKeys
from services.billing.receipts.receipts import Receipts
from services.billing.receipts.signatures import SigningKey
from services.billing.receipts.usage_report import UsageReport
from services.billing.statement_server import StatementServer
from upstream.webhook_deliveries import WebhookDeliveries


class StatementParts:
    """Receipts, webhooks and the server of StatementService. Raises SettingsError for a key that is none."""

    def __init__(
        self,
        *,
        pool: db.Pool,
        prices: PriceBook,
        receipt_key: str,
        at_rest_keys: str,
        config: Callable[[], BillingConfig],
        log: FilteringBoundLogger,
    ) -> None:
        keys = ReceiptKeys(pool=pool, own=_signing_key(receipt_key))
        if not receipt_key:
            log.warning("receipts_not_signed", reason="TOLLBRIDGE_RECEIPT_KEY is not set")
        at_rest = _at_rest(at_rest_keys)
        if not at_rest_keys:
            log.warning("secrets_kept_in_clear", reason="TOLLBRIDGE_AT_REST_KEYS is not set")
        self._log = log
        self.receipts = Receipts(pool=pool, prices=prices, keys=keys)
        self._alerts = BalanceAlerts(pool=pool, keys=at_rest, config=config)
        self._webhooks = WebhookDeliveries(due=DueWebhooks(pool=pool, keys=at_rest, config=config), log=log)
        self.server = StatementServer(keys=keys, usage=UsageReport(pool=pool), alerts=self._alerts)

    def loops(self) -> Mapping[str, Coroutine[object, object, None]]:
        """What runs beside the server, by name; the lifecycle owns the tasks."""
        return {"webhooks": self._webhooks.run(), "secrets": self._alerts.run(self._log)}


def _at_rest(text: str) -> AtRestKeys:
    try:
        return AtRestKeys.parse(text)
    except ValueError as error:
        raise SettingsError([f"TOLLBRIDGE_AT_REST_KEYS: {error}"]) from None


def _signing_key(text: str) -> SigningKey | None:
    try:
        return SigningKey.from_hex(text) if text else None
    except ValueError as error:
        raise SettingsError([f"TOLLBRIDGE_RECEIPT_KEY: {error}"]) from None
