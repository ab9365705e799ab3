"""The objects of payments, built once by keyword; billing's own `parts` builds this."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping

from structlog.typing import FilteringBoundLogger

from chassis import db
from services.billing.config import BillingConfig, CryptoSection, StripeSection
from services.billing.figures import Figures
from services.billing.payments.chain import Chain
from services.billing.payments.checkout import Checkout, StripeAccess
from services.billing.payments.desk import PaymentDesk
from services.billing.payments.server import PaymentServer
from services.billing.payments.stripe_port import StripeApi
from services.billing.payments.suspension import Suspend
from services.billing.payments.watch import CryptoAccess, CryptoPayments, Watch


class PaymentParts:
    """Desk, methods of payment, and the loops that look after them."""

    def __init__(
        self,
        *,
        pool: db.Pool,
        config: Callable[[], BillingConfig],
        suspend: Suspend,
        figures: Figures,
        log: FilteringBoundLogger,
    ) -> None:
        desk = PaymentDesk(pool=pool, figures=figures, log=log)
        access = StripeAccess(config=config, open_stripe=open_stripe)
        self._checkout = Checkout(pool=pool, desk=desk, access=access, suspend=suspend, log=log)
        crypto = CryptoAccess(config=config, open_chain=open_chain)
        self._watch = Watch(pool=pool, desk=desk, access=crypto, log=log)
        self.server = PaymentServer(
            desk=desk,
            checkout=self._checkout,
            crypto=CryptoPayments(pool=pool, desk=desk, access=crypto),
            watch=self._watch,
        )

    def loops(self) -> Mapping[str, Coroutine[object, object, None]]:
        """What runs beside the server, by name; the lifecycle owns the tasks."""
        return {"stripe-rounds": self._checkout.run(), "crypto-watch": self._watch.run()}


async def open_stripe(section: StripeSection) -> StripeApi:
    """Loads the library off the event loop, and only where it is configured."""

    def opened() -> StripeApi:
        from services.billing.payments.stripe_api import Stripe

        return Stripe(section)

    return await asyncio.to_thread(opened)


async def open_chain(section: CryptoSection) -> Chain:
    """The chain that the configured watcher asks; its HTTP client too is loaded only where it is needed."""

    def opened() -> Chain:
        if section.watcher == "local":
            from services.billing.payments.local_chain import LocalChain

            return LocalChain(section)
        from services.billing.payments.tron import TronChain

        return TronChain(section)

    return await asyncio.to_thread(opened)
