"""Statements of leases: in pages of bounded size, late, twice and in any order, they never free what still runs."""

import inspect
import secrets
from collections.abc import AsyncIterator
from unittest.mock import MagicMock
from uuid import UUID, uuid4

import psycopg
import pytest
import structlog
from prometheus_client import CollectorRegistry

from chassis import db
from chassis.errors import Code, TollbridgeError
from chassis.ids import uuid7, uuid7_at
from chassis.pipe import PipeClient
from chassis.rpc import RpcServer, RpcService
from chassis.telemetry import Tracer
from services.billing.accounts import Accounts
from services.billing.figures import Figures
from services.billing.holding import leases
from services.billing.holding.grants import Grants
from services.billing.holding.hold_store import Ask
from services.billing.holding.holds import HoldKind
from services.billing.holding.leases import LEASE_LIVES_S, Leases, Page, Stated
from services.billing.proof.reconcile import verify
from services.billing.server import BillingServer
from services.edge.owners import BillingOwner, LeaseState
from tests.patience import promised
from tollbridge.billing.v1 import billing_pb2


@pytest.fixture
async def pool(billing_url: str) -> AsyncIterator[db.Pool]:
    """The service's pool."""
    made = await db.open_pool(billing_url, role="billing", max_size=4)
    made.timeout = promised(made.timeout)
    yield made
    await made.close()


class Desk:
    """One customer, one spender, and billing's grants and statements."""

    def __init__(self, pool: db.Pool, *, spender: str = "") -> None:
        self.pool = pool
        self.customer_id = f"customer-{uuid4()}"
        self.spender = spender or str(uuid7())
        self.figures = Figures(registry=CollectorRegistry())
        self.leases = Leases(pool=pool, figures=self.figures, log=structlog.get_logger())
        self._since_ms = 1_700_000_000_000 + secrets.randbelow(10**11)
        self._grants = Grants(pool=pool, figures=Figures(registry=CollectorRegistry()), lease_lives_s=LEASE_LIVES_S)

    def at(self, ms: int) -> UUID:
        """An id of so many milliseconds after this test's beginning of time."""
        return uuid7_at(self._since_ms + ms)

    async def grant(self, hold_id: UUID, amount: int = 1) -> UUID:
        ask = Ask(
            hold_id=hold_id,
            customer_id=self.customer_id,
            kind=HoldKind.LEASE,
            spender=self.spender,
            amount_nano_usd=amount,
        )
        await self._grants.grant(ask)
        return hold_id

    async def state(self, *listed: UUID, as_of: UUID, spent: int = 0, **span: UUID) -> list[UUID]:
        stated = [Stated(hold_id=each, open_nano_usd=0, spent_nano_usd=spent) for each in listed]
        return list((await self.leases.state(Page(spender=self.spender, as_of=as_of, leases=stated, **span))).gone)

    async def held(self) -> int:
        return (await Accounts(pool=self.pool).read(self.customer_id)).held_nano_usd


@pytest.fixture
async def desk(pool: db.Pool) -> Desk:
    """A customer with credit and a spender that has nothing yet."""
    made = Desk(pool)
    await Accounts(pool=pool).open(made.customer_id, welcome_nano_usd=1_000_000)
    return made


async def test_what_a_statement_does_not_name_is_freed_at_once(desk: Desk, billing_url: str):
    """And what it names but billing doesn't know is reported as gone."""
    kept, lost, unknown = await desk.grant(desk.at(0), 30), await desk.grant(desk.at(1), 40), uuid7()
    assert await desk.state(kept, unknown, as_of=desk.at(2)) == [unknown]
    assert await desk.held() == 30
    assert lost != kept
    assert verify(billing_url).clean


async def test_a_statement_executed_late_frees_nothing_that_began_after_it(desk: Desk):
    """A hold that was granted while the statement was under way is younger than it."""
    old = await desk.grant(desk.at(0), 30)
    await desk.grant(desk.at(20), 40)
    await desk.state(old, as_of=desk.at(10))
    assert await desk.held() == 70
    await desk.state(as_of=desk.at(10))
    assert await desk.held() == 40


async def test_an_older_statement_that_comes_after_a_younger_one_only_renews(desk: Desk, billing_url: str):
    """What the younger one said of the amounts stays, and what began between them is not freed."""
    first, second = await desk.grant(desk.at(0), 30), await desk.grant(desk.at(15), 40)
    await desk.state(first, second, as_of=desk.at(20), spent=25)
    await desk.state(first, as_of=desk.at(10), spent=5)
    assert await desk.held() == 70
    with psycopg.connect(billing_url) as admin:
        rows = admin.execute("SELECT stated FROM billing.holds WHERE spender = %s", (desk.spender,)).fetchall()
    assert rows == [(25,), (25,)]


async def test_what_had_lapsed_ends_with_its_spender(desk: Desk, billing_url: str):
    """A living spender's lapsed lease may still run; a dead one's, of which all is charged, may not."""
    await desk.grant(desk.at(0), 30)
    with psycopg.connect(billing_url) as admin:
        admin.execute("UPDATE billing.holds SET lapsed = true WHERE spender = %s", (desk.spender,))
    await desk.state(as_of=desk.at(1))
    assert await desk.held() == 30
    await desk.leases.state(Page(spender=desk.spender, as_of=desk.at(2), spender_ended=True))
    assert await desk.held() == 0


async def test_the_last_words_of_a_spender_free_whatever_it_had(desk: Desk, monkeypatch):
    """Also more leases than one transaction releases: nobody speaks for it again."""
    monkeypatch.setattr(leases, "MAX_RELEASED", 2)
    for ms in range(5):
        await desk.grant(desk.at(ms))
    await desk.state(as_of=desk.at(10))
    assert await desk.held() == 0


async def test_a_page_speaks_only_of_its_range(desk: Desk):
    """Pages of one statement may come in any order, and one that never comes frees nothing."""
    ids = [await desk.grant(desk.at(n)) for n in range(6)]
    await desk.state(ids[5], as_of=desk.at(9), from_id=ids[3], until_id=desk.at(9))
    assert await desk.held() == 4
    await desk.state(ids[0], ids[2], as_of=desk.at(9), until_id=ids[3])
    assert await desk.held() == 3


@pytest.fixture
async def owner(desk: Desk) -> AsyncIterator[BillingOwner]:
    """Edge's way to billing, over real gRPC."""
    others = {
        name: MagicMock()
        for name in inspect.signature(BillingServer.__init__).parameters
        if name not in {"self", "leases"}
    }
    tracer = Tracer(service="test", replica="0", otlp_endpoint="")
    service = BillingServer(leases=desk.leases, **others).service()
    server = RpcServer(
        services=[RpcService(service.descriptor, service.handlers)],
        bind="127.0.0.1:0",
        tokens={"edge": "secret"},
        tracer=tracer,
        registry=CollectorRegistry(),
    )
    descriptor = billing_pb2.DESCRIPTOR.services_by_name["BillingService"]
    pipe = PipeClient(descriptor=descriptor, addresses=await server.start(), token="edge:secret", tracer=tracer)
    await pipe.start()
    yield BillingOwner(pipe=pipe, spender=UUID(desk.spender))
    await pipe.close()
    await server.stop(1)


async def test_twenty_five_thousand_leases_are_stated(desk: Desk, owner: BillingOwner, billing_url: str):
    """All that live are renewed, and the one that is missing in their middle is freed."""
    ids = [desk.at(n) for n in range(25_000)]
    with psycopg.connect(billing_url) as admin:
        admin.execute(
            "INSERT INTO billing.holds (id, customer_id, kind, spender, amount, stated, expires_at)"
            " SELECT id, %s, 'lease', %s, 1, 1, now() FROM unnest(%s::uuid[]) AS given (id)",
            (desk.customer_id, desk.spender, ids),
        )
        admin.execute("UPDATE billing.ledger_accounts SET held = 25000 WHERE customer_id = %s", (desk.customer_id,))
    living = [each for each in ids if each != ids[12_345]]
    states = [LeaseState(hold_id=str(each), open_nano_usd=1, spent_nano_usd=0) for each in reversed(living)]
    renew_in_s, gone = await owner.state_leases(states, as_of=str(desk.at(30_000)))
    assert (renew_in_s, gone) == (10, [])
    assert await desk.held() == 24_999
    with psycopg.connect(billing_url) as admin:
        renewed = "SELECT count(*) FROM billing.holds WHERE spender = %s AND state = 'open' AND expires_at > now()"
        assert admin.execute(renewed, (desk.spender,)).fetchone() == (24_999,)
    assert verify(billing_url).clean


async def test_a_lease_that_is_stated_wrong_keeps_no_other_from_its_due(
    desk: Desk, owner: BillingOwner, billing_url: str
):
    """It is kept whole and named; the others are renewed, or freed as they are not there. Its spender goes on."""
    right, wrong, missing = [await desk.grant(desk.at(n), amount) for n, amount in enumerate((30, 40, 50))]
    with psycopg.connect(billing_url) as admin:
        admin.execute("UPDATE billing.holds SET expires_at = now(), stated = 1 WHERE spender = %s", (desk.spender,))
    states = [
        LeaseState(hold_id=str(right), open_nano_usd=20, spent_nano_usd=0, returned_nano_usd=10),
        LeaseState(hold_id=str(wrong), open_nano_usd=0, spent_nano_usd=-7, returned_nano_usd=40),
        LeaseState(hold_id="no-uuid", open_nano_usd=0, spent_nano_usd=0),
    ]
    renew_in_s, gone = await owner.state_leases(states, as_of=str(desk.at(10)))
    assert (renew_in_s, sorted(gone)) == (10, sorted(["no-uuid", str(wrong)]))
    assert await desk.held() == 20 + 40
    assert desk.figures.leases_refused._value.get() == 2
    with psycopg.connect(billing_url) as admin:
        told = admin.execute(
            "SELECT id, expires_at > now(), stated >= amount, answered_at IS NULL FROM billing.holds"
            " WHERE spender = %s AND id <> %s ORDER BY id",
            (desk.spender, missing),
        ).fetchall()
    assert told == [(right, True, False, False), (wrong, True, True, True)]
    await owner.state_leases([], as_of=str(desk.at(10)))
    assert await desk.held() == 0
    assert verify(billing_url).clean


async def test_a_lease_that_the_database_refuses_to_change_keeps_no_other_from_its_due(
    desk: Desk, pool: db.Pool, billing_url: str
):
    """What was given back of the others is freed, and so is what is not listed; the one is named and heard again."""
    other = Desk(pool, spender=desk.spender)
    await Accounts(pool=pool).open(other.customer_id, welcome_nano_usd=1_000)
    ids = [await each.grant(desk.at(n), 30) for n, each in enumerate((desk, other, desk, other))]
    listed = [Stated(hold_id=id_, open_nano_usd=0, spent_nano_usd=0, returned_nano_usd=10) for id_ in ids[:2]]
    page = Page(spender=desk.spender, as_of=desk.at(10), leases=listed)
    with psycopg.connect(billing_url, autocommit=True) as admin:
        held = "UPDATE billing.ledger_accounts SET held = %s WHERE customer_id = %s"
        admin.execute(held, (0, other.customer_id))
        answer = await desk.leases.state(page)
        assert (answer.gone, [each.hold_id for each in answer.refused]) == ([], [str(ids[1]), str(ids[3])])
        assert await desk.held() == 20
        admin.execute(held, (60, other.customer_id))
    again = await desk.leases.state(page)
    assert (again.gone, again.refused) == ([], [])
    assert (await desk.held(), await other.held()) == (20, 20)
    assert verify(billing_url).clean


async def test_a_page_without_its_time_is_refused(owner: BillingOwner):
    """Nobody could tell what it may free."""
    with pytest.raises(TollbridgeError) as caught:
        await owner.state_leases([], as_of="")
    assert caught.value.code is Code.INVALID_REQUEST
