"""The objects of statements (receipts and their keys), built once by keyword; billing's own `parts` builds this."""

from structlog.typing import FilteringBoundLogger

from chassis import db
from chassis.settings import SettingsError
from services.billing.prices import PriceBook
from services.billing.receipt_keys import ReceiptKeys
from services.billing.receipts import Receipts
from services.billing.signatures import SigningKey
from services.billing.statement_server import StatementServer
from services.billing.usage_report import UsageReport


class StatementParts:
    """Receipts and the server of StatementService. Raises SettingsError for a key that is none."""

    def __init__(self, *, pool: db.Pool, prices: PriceBook, receipt_key: str, log: FilteringBoundLogger) -> None:
        keys = ReceiptKeys(pool=pool, own=_signing_key(receipt_key))
        if not receipt_key:
            log.warning("receipts_not_signed", reason="TOLLBRIDGE_RECEIPT_KEY is not set")
        self.receipts = Receipts(pool=pool, prices=prices, keys=keys)
        self.server = StatementServer(keys=keys, usage=UsageReport(pool=pool))


def _signing_key(text: str) -> SigningKey | None:
    try:
        return SigningKey.from_hex(text) if text else None
    except ValueError as error:
        raise SettingsError([f"TOLLBRIDGE_RECEIPT_KEY: {error}"]) from None
