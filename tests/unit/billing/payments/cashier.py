"""Payments in USDT as a customer and the watch see them."""

import dataclasses
import time

from chassis import db
from services.billing.accounts import Accounts
from services.billing.payments.desk import PaymentDesk
from services.billing.payments.payment import Payment
from services.billing.payments.watch import CryptoPayments, Watch

USD = 1_000_000_000
CONFIRMATIONS = 19


@dataclasses.dataclass
class Cashier:
    """What a customer and the watch do."""

    pool: db.Pool
    desk: PaymentDesk
    customer: str
    payments: CryptoPayments
    watch: Watch
    another_watch: Watch

    async def begin(self, usd: int = 25, request_id: str = "") -> Payment:
        """A payment that has begun."""
        return await self.payments.create(
            customer_id=self.customer, amount_nano_usd=usd * USD, request_id=request_id or str(time.monotonic_ns())
        )

    async def now(self, payment: Payment) -> Payment:
        """The payment as it is now."""
        return await self.desk.find(payment.id)

    async def balance(self) -> int:
        """In nano-USD."""
        return (await Accounts(pool=self.pool).read(self.customer)).posted_nano_usd
