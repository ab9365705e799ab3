"""A migrated billing database, its payment desk, and customers who pay."""

import dataclasses
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any
from uuid import uuid4

import psycopg
import pytest
import structlog
from prometheus_client import CollectorRegistry

from chassis import db
from cli.schema import migrate
from services.billing import config
from services.billing.accounts import Accounts
from services.billing.config import CryptoSection
from services.billing.figures import Figures
from services.billing.payments.desk import PaymentDesk, new_payment
from services.billing.payments.parts import open_chain
from services.billing.payments.payment import Method, Payment
from services.billing.payments.watch import CryptoAccess, CryptoPayments, Watch
from services.billing.proof.reconcile import verify
from tests.fakes.tron import SHOP, FakeTron, fake_tron
from tests.patience import promised
from tests.unit.billing.payments.cashier import CONFIRMATIONS, Cashier


@pytest.fixture(scope="module")
def payments_url(postgres_url: str) -> str:
    """A database with billing's schema, as a superuser."""
    migrate(postgres_url, service="billing")
    return postgres_url


@pytest.fixture
async def pool(payments_url: str) -> AsyncIterator[db.Pool]:
    """The service's connections."""
    opened = await db.open_pool(payments_url, role="billing", max_size=8)
    opened.timeout = promised(opened.timeout)
    yield opened
    await opened.close()
    report = verify(payments_url)
    assert report.clean, report.checks


@pytest.fixture
def desk(pool: db.Pool) -> PaymentDesk:
    """The desk."""
    return PaymentDesk(pool=pool, figures=Figures(registry=CollectorRegistry()), log=structlog.get_logger())


@pytest.fixture
async def customer(pool: db.Pool) -> str:
    """Somebody without money."""
    customer_id = f"customer-{uuid4()}"
    await Accounts(pool=pool).open(customer_id, welcome_nano_usd=0)
    return customer_id


Begin = Callable[..., Coroutine[Any, Any, Payment]]


@pytest.fixture
def begin(pool: db.Pool, desk: PaymentDesk, customer: str) -> Begin:
    """Begins a payment of that customer."""

    async def begun(amount_nano_usd: int, *, request_id: str = "", method: Method = Method.STRIPE) -> Payment:
        draft = new_payment(
            customer_id=customer,
            request_id=request_id or str(uuid4()),
            method=method,
            amount_nano_usd=amount_nano_usd,
        )
        async with db.transaction(pool) as connection:
            return (await desk.begin(connection, draft, lives_s=3600))[0]

    return begun


@pytest.fixture
def rows(payments_url: str) -> Callable[..., list[tuple[Any, ...]]]:
    """Asks the database, as a superuser."""

    def asked(query: str, *values: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(payments_url, autocommit=True) as connection:
            cursor = connection.execute(query.encode(), values)
            return cursor.fetchall() if cursor.description else []

    return asked


@pytest.fixture
def tron(rows: Callable[..., Any]) -> Iterator[FakeTron]:
    """A chain of its own for each test; what another test left open no longer waits for it."""
    rows("UPDATE billing.payments SET suffix = NULL")
    rows("UPDATE billing.crypto_transfers SET state = 'dropped' WHERE state = 'seen'")
    rows("DELETE FROM billing.crypto_watches")
    with fake_tron() as running:
        yield running


@pytest.fixture
def section(tron: FakeTron) -> CryptoSection:
    """The configuration."""
    return CryptoSection(address=SHOP, api_base=tron.url, api_key="canary", confirmations=CONFIRMATIONS)


@pytest.fixture
def cashier(pool: db.Pool, desk: PaymentDesk, customer: str, section: CryptoSection) -> Cashier:
    """Two replicas' watches over the same database and chain."""
    current = dataclasses.replace(config.defaults(), crypto=section)
    access = CryptoAccess(config=lambda: current, open_chain=open_chain)
    log = structlog.get_logger()
    return Cashier(
        pool=pool,
        desk=desk,
        customer=customer,
        payments=CryptoPayments(pool=pool, desk=desk, access=access),
        watch=Watch(pool=pool, desk=desk, access=access, log=log),
        another_watch=Watch(pool=pool, desk=desk, access=access, log=log),
    )
