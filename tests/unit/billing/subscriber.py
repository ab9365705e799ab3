"""A customer whose balance falls, with a real server of theirs that hears its webhooks; for tests."""

import asyncio
import dataclasses
import ipaddress
from typing import Any
from uuid import uuid4

import structlog
from aiohttp import web

from chassis.ids import uuid7
from services.billing import config, outbox_store
from services.billing.alerts.alert_store import Taken
from services.billing.alerts.at_rest import AtRestKeys
from services.billing.alerts.balance_alerts import BalanceAlerts
from services.billing.alerts.balance_notices import BalanceNotices
from services.billing.alerts.due_webhooks import DueWebhooks
from services.billing.config import BillingConfig
from services.billing.ledger import Usage, UsageKind
from services.billing.written import Memory
from tests.unit.billing.bank import PostgresBank, event
from upstream.webhook_deliveries import WebhookDeliveries

LOG = structlog.get_logger()
WITHIN_S = 30.0
KEYS = AtRestKeys.parse("1:" + "ab" * 32)
CONFIG = dataclasses.replace(
    config.defaults(),
    low_balance_nano_usd=100,
    exhausted_balance_nano_usd=10,
    webhook_networks=(ipaddress.ip_network("127.0.0.0/8"),),
)


class Silent:
    """A bus that nobody hears: what is promised here is in the database."""

    async def publish(self, *_: object, **__: object) -> None:
        """Goes nowhere."""


async def look(deliveries: WebhookDeliveries[Taken]) -> None:
    """Until what was due is tried."""
    async with asyncio.TaskGroup() as tries:
        await deliveries.look(tries)


class Case:
    """A customer with a balance of 150 and a server of theirs that answers `status`."""

    def __init__(self, bank: PostgresBank) -> None:
        self.bank, self.customer, self.status = bank, f"customer-{uuid4()}", 204
        self.config: BillingConfig = CONFIG
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.answers = asyncio.Event()
        self.answers.set()
        self.heard = asyncio.Event()
        self.keep_under(KEYS)
        self.notices = BalanceNotices(bus=Silent(), config=lambda: self.config)  # type: ignore[arg-type]
        assert not bank.open(self.customer, 150)
        bank.run(self._listen())

    def keep_under(self, keys: AtRestKeys) -> None:
        """A billing with these keys."""
        self.alerts = BalanceAlerts(pool=self.bank.pool, keys=keys, config=lambda: self.config)
        self.deliveries = self.replica(keys)

    def replica(self, keys: AtRestKeys = KEYS) -> WebhookDeliveries[Taken]:
        """Another that delivers."""
        due = DueWebhooks(pool=self.bank.pool, keys=keys, config=lambda: self.config)
        return WebhookDeliveries(due=due, log=LOG)

    async def _listen(self) -> None:
        async def serve(request: web.Request) -> web.Response:
            headers = {name.lower(): value for name, value in request.headers.items()}
            self.got.append((headers, await request.read()))
            self.heard.set()
            await self.answers.wait()
            return web.Response(status=self.status)

        app = web.Application()
        app.router.add_post("/hook", serve)
        self.runner = web.AppRunner(app)
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self.runner.addresses[0][1]}/hook"

    def set(self, *, low: int | None = None, url: str | None = None, new_key: bool = False) -> str:
        wanted = self.url if url is None else url
        return self.bank.run(self.alerts.set(self.customer, low_nano_usd=low, url=wanted, new_key=new_key))[1]

    def charge(self, amount: int) -> None:
        usage = Usage(
            request_id=uuid7(),
            kind=UsageKind.CHARGE,
            customer_id=self.customer,
            hold_id=None,
            closes_hold=False,
            charge_nano_usd=amount,
        )
        self.bank.run(self.bank.settlement.apply([event(usage)]))

    def leave(self, *, forget: bool = True) -> None:
        """The outbox's transaction."""

        async def work() -> None:
            async with self.bank.pool.connection() as connection, connection.transaction():
                leaving = await outbox_store.take(connection, Memory(), limit=1000)
                await self.notices.tell(connection, [each.written for each in leaving])
                if forget:
                    await outbox_store.forget(connection, leaving)

        self.bank.run(work())

    def look(self) -> None:
        self.bank.run(look(self.deliveries))

    def make_due(self, *, age: str = "0") -> None:
        self.bank.admin.execute(
            "UPDATE billing.webhook_deliveries SET try_at = now(), made_at = made_at - %s::interval"
            " WHERE customer_id = %s",
            (age, self.customer),
        )

    def rows(self) -> list[tuple[Any, ...]]:
        return self.bank.admin.execute(
            "SELECT state, tries, problem FROM billing.webhook_deliveries WHERE customer_id = %s ORDER BY id",
            (self.customer,),
        ).fetchall()
