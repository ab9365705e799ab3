"""A stop of billing or of PostgreSQL is nobody else's silence: what spenders could not say is waited for."""

from collections.abc import AsyncIterator, Callable, Sequence
from uuid import UUID, uuid4

import psycopg
import pytest
import structlog
from prometheus_client import CollectorRegistry

from chassis import db
from chassis.errors import Code, TollbridgeError
from chassis.ids import now_floor, uuid7
from services.billing.accounts import Accounts
from services.billing.claim_store import Asked
from services.billing.figures import Figures
from services.billing.holding import hold_store
from services.billing.holding.grants import Grants
from services.billing.holding.hold_store import Ask
from services.billing.holding.holds import HoldKind
from services.billing.holding.leases import LEASE_LIVES_S, TTL_S, Expiry, Page, Stated
from services.billing.idempotency import LIVES_S, Claims, Outcome, Verdict
from services.billing.listening import BROKEN_S, Listening
from tests.patience import promised
from tests.unit.billing.bank import leases_of
from tests.unit.billing.hearing import Hearing

STOP_S = 45.0


@pytest.fixture
async def pool(billing_url: str) -> AsyncIterator[db.Pool]:
    """The service's pool."""
    made = await db.open_pool(billing_url, role="billing", max_size=2)
    made.timeout = promised(made.timeout)
    yield made
    await made.close()


class Replica:
    """One process of billing, as far as it judges silence."""

    def __init__(self, pool: db.Pool) -> None:
        self.pool, self.hearing = pool, Hearing()
        log, figures = structlog.get_logger(), Figures(registry=CollectorRegistry())
        self.in_look: Callable[[], None] = lambda: None
        self.expiry = Expiry(
            pool=pool, settle_grace_s=self._settle_grace_s, listening=self.hearing, figures=figures, log=log
        )
        self.claims = Claims(pool=pool, listening=self.hearing, log=log)

    def stop(self, seconds: float) -> None:
        """Nothing happens for so long."""
        self.hearing.ahead_s += seconds

    def _settle_grace_s(self) -> int:
        """Asked between the database's answer about what is due and its end."""
        self.in_look()
        return 60


@pytest.fixture
def replica(pool: db.Pool) -> Replica:
    """A process that has heard everybody for as long as matters."""
    made = Replica(pool)
    made.hearing.hear(LIVES_S)
    return made


async def leased(pool: db.Pool) -> tuple[str, UUID]:
    """A customer with 1000, and a lease of 100 of it, of which nothing is drawn as its spender says."""
    customer_id, hold_id = f"customer-{uuid4()}", uuid7()
    await Accounts(pool=pool).open(customer_id, welcome_nano_usd=1000)
    ask = Ask(hold_id=hold_id, customer_id=customer_id, kind=HoldKind.LEASE, spender="s", amount_nano_usd=100)
    figures = Figures(registry=CollectorRegistry())
    await Grants(pool=pool, figures=figures, lease_lives_s=LEASE_LIVES_S).grant(ask)
    await state(pool, hold_id, drawn=0)
    return customer_id, hold_id


async def state(pool: db.Pool, hold_id: UUID, *, drawn: int) -> Sequence[UUID]:
    """What the spender says of its lease; returns it if it has no such lease any more."""
    lease = Stated(hold_id=hold_id, open_nano_usd=drawn, spent_nano_usd=0, free_nano_usd=100 - drawn)
    now = now_floor()
    page = Page(spender="s", as_of=now, from_id=now, until_id=now, leases=[lease])
    return (await leases_of(pool).state(page)).gone


async def held(pool: db.Pool, customer_id: str) -> int:
    return (await Accounts(pool=pool).read(customer_id)).held_nano_usd


def age(billing_url: str) -> None:
    """Leases and claims were last spoken of as long ago as they live."""
    with psycopg.connect(billing_url, autocommit=True) as admin:
        admin.execute("UPDATE billing.holds SET expires_at = now() - interval '1 ms' WHERE state = 'open'")
        admin.execute(
            "UPDATE billing.idempotency_claims SET alive_until = now() - interval '1 ms'"
            " WHERE NOT answered AND alive_until > now()"
        )


def asked(key: str = "", *, spender: str = "s") -> Asked:
    return Asked(customer_id="c", key=key or str(uuid4()), body_hash=bytes(32), call_id=uuid7(), spender=spender)


async def test_a_lease_outlives_a_stop_in_which_its_spender_could_not_state_it(replica: Replica, billing_url: str):
    """The first look after it ends nothing, and what was drawn meanwhile is held as soon as it is said."""
    customer_id, hold_id = await leased(replica.pool)
    age(billing_url)
    replica.stop(STOP_S)
    assert await replica.expiry.look() == 0
    assert await state(replica.pool, hold_id, drawn=80) == []
    replica.hearing.hear(TTL_S)
    await replica.expiry.look()
    assert await held(replica.pool, customer_id) == 100


async def test_a_lease_of_who_is_dead_ends_a_while_after_the_stop(replica: Replica, billing_url: str):
    """When living spenders have had the time to speak, and not before."""
    customer_id, _ = await leased(replica.pool)
    age(billing_url)
    replica.stop(STOP_S)
    await replica.expiry.look()
    replica.hearing.hear(TTL_S - BROKEN_S)
    assert await replica.expiry.look() == 0
    replica.hearing.hear(BROKEN_S)
    assert await replica.expiry.look() > 0
    assert await held(replica.pool, customer_id) == 0


async def test_a_replica_that_ran_on_ends_what_is_due_beside_one_that_stood_still(
    replica: Replica, pool: db.Pool, billing_url: str
):
    """Statements reached it; the other's own first look ends nothing."""
    customer_id, _ = await leased(pool)
    stopped = Replica(pool)
    stopped.hearing.hear(LIVES_S)
    stopped.stop(STOP_S)
    replica.hearing.hear(STOP_S)
    age(billing_url)
    assert await stopped.expiry.look() == 0
    assert await replica.expiry.look() > 0
    assert await held(pool, customer_id) == 0


async def test_a_database_that_could_not_be_reached_is_a_stop(
    replica: Replica, billing_url: str, monkeypatch: pytest.MonkeyPatch
):
    """However short: nothing ends before spenders had their time."""
    await leased(replica.pool)
    age(billing_url)

    async def unreachable(*_: object, **__: object) -> None:
        raise TollbridgeError(Code.UNAVAILABLE, "the database can't be reached")

    with monkeypatch.context() as patched:
        patched.setattr(hold_store, "due", unreachable)
        assert await replica.expiry.look() == 0
    assert await replica.expiry.look() == 0
    replica.hearing.hear(TTL_S)
    assert await replica.expiry.look() > 0


async def test_a_stop_within_a_look_is_seen_by_the_next(replica: Replica, billing_url: str):
    """That one ends what was due before the stop; what came to its time in it is waited for."""
    ended, _ = await leased(replica.pool)
    age(billing_url)
    lives, _ = await leased(replica.pool)
    replica.in_look = lambda: replica.stop(STOP_S)
    await replica.expiry.look()
    age(billing_url)
    assert await replica.expiry.look() == 0
    assert [await held(replica.pool, each) for each in (ended, lives)] == [0, 100]


async def test_nobody_is_taken_over_for_a_silence_that_was_a_stop(replica: Replica, billing_url: str):
    """A retry that comes before the runner's word is told that it runs; after that word, too."""
    first = asked()
    await replica.claims.claim(first)
    age(billing_url)
    replica.stop(STOP_S)
    assert await replica.claims.claim(asked(first.key)) == (Verdict.RUNNING, first.call_id)
    assert await replica.claims.state(spender="s", call_ids=[first.call_id], spender_ended=False) == []
    replica.hearing.hear(LIVES_S)
    assert await replica.claims.claim(asked(first.key)) == (Verdict.RUNNING, first.call_id)


async def test_who_died_in_a_stop_is_taken_over_when_it_could_have_spoken(replica: Replica, billing_url: str):
    """As long after it as a claim lives."""
    first = asked()
    await replica.claims.claim(first)
    age(billing_url)
    replica.stop(STOP_S)
    assert (await replica.claims.claim(asked(first.key)))[0] is Verdict.RUNNING
    replica.hearing.hear(LIVES_S - BROKEN_S)
    assert (await replica.claims.claim(asked(first.key)))[0] is Verdict.RUNNING
    replica.hearing.hear(BROKEN_S)
    assert await replica.claims.claim(asked(first.key)) == (Verdict.TAKEN_OVER, first.call_id)


async def test_a_process_that_has_just_begun_calls_nobody_silent(pool: db.Pool, billing_url: str):
    """Billing was away, and nobody could speak."""
    begun, first = Replica(pool), asked()
    await begun.claims.claim(first)
    await leased(pool)
    age(billing_url)
    assert (await begun.claims.claim(asked(first.key)))[0] is Verdict.RUNNING
    assert await begun.expiry.look() == 0


@pytest.mark.parametrize("by", ["lapse", "end of its spender"])
async def test_what_was_given_up_in_words_waits_for_nobody(pool: db.Pool, by: str):
    """A word is no silence: it holds right after a stop."""
    begun, first = Replica(pool), asked(spender=str(uuid4()))
    await begun.claims.claim(first)
    if by == "lapse":
        await begun.claims.end(first.call_id, Outcome.LAPSED)
    else:
        await begun.claims.state(spender=first.spender, call_ids=[], spender_ended=True)
    assert await begun.claims.claim(asked(first.key)) == (Verdict.TAKEN_OVER, first.call_id)


async def test_the_end_of_a_spender_that_was_silent_before_is_a_word_too(pool: db.Pool, billing_url: str):
    """Its claims were over their time when somebody found its spool."""
    begun, first = Replica(pool), asked(spender=str(uuid4()))
    await begun.claims.claim(first)
    age(billing_url)
    await begun.claims.state(spender=first.spender, call_ids=[], spender_ended=True)
    assert await begun.claims.claim(asked(first.key)) == (Verdict.TAKEN_OVER, first.call_id)


async def test_an_old_key_whose_runner_could_not_speak_is_not_forgotten(pool: db.Pool, billing_url: str):
    """To forget it would be to run it once more, and under another id."""
    hearing, first = Hearing(), asked()
    brief = Claims(pool=pool, listening=hearing, log=structlog.get_logger(), kept_s=0.0)
    await brief.claim(first)
    age(billing_url)
    assert await brief.claim(asked(first.key)) == (Verdict.RUNNING, first.call_id)
    hearing.hear(LIVES_S)
    again = asked(first.key)
    assert await brief.claim(again) == (Verdict.NEW, again.call_id)


def test_listening_begins_anew_after_each_jump_of_the_database_s_clock():
    """Forth or back: either way nobody knows what was said meanwhile. Answers that overtake each other are no jump."""
    listening, now_us, broken_us = Listening(), 1_700_000_000_000_000, int(BROKEN_S * 1_000_000)
    assert listening.goes_on(now_us) == 0
    assert listening.goes_on(now_us + broken_us) == BROKEN_S
    assert listening.goes_on(now_us + broken_us - 2_000_000) == BROKEN_S - 2
    assert listening.goes_on(now_us + 2 * broken_us) == 2 * BROKEN_S
    assert listening.goes_on(now_us + 3 * broken_us + 1) == 0
    assert listening.goes_on(now_us) == 0
    assert listening.goes_on(now_us + 1_000_000) == 1
    listening.broke()
    assert listening.goes_on(now_us + 2_000_000) == 0
