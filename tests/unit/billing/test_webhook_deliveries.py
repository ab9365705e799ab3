"""Balance alerts on real PostgreSQL with somebody's real server: signed, once taken, tried again, and given up."""

import asyncio
import base64
import dataclasses
import hashlib
import hmac
import json
from collections.abc import Iterator
from uuid import UUID, uuid4

import pytest
from psycopg.errors import DeadlockDetected

from chassis.db import Connection
from chassis.errors import Code, TollbridgeError
from chassis.ids import uuid7
from services.billing.alerts import alert_store
from services.billing.alerts.at_rest import AtRestKeys
from services.billing.alerts.due_webhooks import HOLD_UP_S
from tests.unit.billing.bank import PostgresBank
from tests.unit.billing.subscriber import CONFIG, KEYS, LOG, WITHIN_S, Case, look
from upstream.webhook_deliveries import AT_ONCE, PAUSES_S
from upstream.webhooks import TIMEOUT_S, signature


@pytest.fixture
def case(bank: PostgresBank) -> Iterator[Case]:
    made = Case(bank)
    yield made
    bank.run(made.runner.cleanup())


@pytest.fixture
def other_case(bank: PostgresBank) -> Iterator[Case]:
    """Another customer."""
    made = Case(bank)
    yield made
    bank.run(made.runner.cleanup())


def test_a_low_balance_is_told_by_a_signed_webhook(case: Case):
    """Once: the same transfer that is told again is the same webhook."""
    secret = case.set()
    case.charge(60)
    case.leave(forget=False)
    case.leave()
    case.look()
    case.look()
    assert len(case.got) == 1
    headers, body = case.got[0]
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    digest = hmac.digest(base64.b64decode(secret.removeprefix("whsec_")), signed, hashlib.sha256)
    assert headers["webhook-signature"] == f"v1,{base64.b64encode(digest).decode()}"
    told = json.loads(body)
    assert (told["type"], told["data"]["balance"], told["data"]["threshold"]) == (
        "balance.low",
        "0.000000090",
        "0.000000100",
    )
    assert UUID(headers["webhook-id"])
    assert case.rows() == [("delivered", 1, "")]


def test_the_database_never_sees_the_secret(case: Case):
    """It is kept encrypted, also one from before there was a key, and after each turn of keys signs as before."""
    kept = "SELECT secret FROM billing.balance_alerts WHERE customer_id = %s"
    case.keep_under(AtRestKeys({}))
    secret = case.set()
    seen = [case.bank.admin.execute(kept, (case.customer,)).fetchall()]
    for keys in (KEYS, AtRestKeys.parse("1:" + "ab" * 32 + ",2:" + "cd" * 32), AtRestKeys.parse("2:" + "cd" * 32)):
        case.keep_under(keys)
        case.bank.run(case.alerts.renew_secrets(LOG))
        seen.append(case.bank.admin.execute(kept, (case.customer,)).fetchall())
    assert [text.partition("_")[0].partition(":")[0] for [(text,)] in seen] == ["whsec", "1", "2", "2"]
    assert seen[2] == seen[3]
    case.charge(60)
    case.leave()
    case.look()
    [(headers, body)] = case.got
    assert headers["webhook-signature"] == signature(
        secret,
        message_id=headers["webhook-id"],
        timestamp_s=int(headers["webhook-timestamp"]),
        body=body,
    )


def test_a_webhook_whose_key_is_missing_waits_for_it(case: Case):
    """Nothing is sent that is not signed; with the key back it goes out."""
    case.set()
    case.charge(60)
    case.leave()
    case.keep_under(AtRestKeys.parse("2:" + "cd" * 32))
    case.look()
    [(state, _, problem)] = case.rows()
    assert (case.got, state) == ([], "pending")
    assert "TOLLBRIDGE_AT_REST_KEYS" in problem
    case.keep_under(KEYS)
    case.make_due()
    case.look()
    assert [row[0] for row in case.rows()] == ["delivered"]


def test_a_line_of_ones_own_counts_and_0_is_never_low(case: Case):
    """The customer's line goes before the operator's."""
    case.set(low=140)
    case.charge(15)
    case.leave()
    case.set(low=0)
    case.charge(60)
    case.leave()
    case.look()
    assert [json.loads(body)["data"]["threshold"] for _, body in case.got] == ["0.000000140"]


def test_what_is_not_taken_is_tried_again_with_the_same_id_after_a_pause(case: Case):
    """Growing pauses; then it is delivered."""
    case.set()
    case.charge(60)
    case.leave()
    case.status = 500
    case.look()
    case.look()
    assert case.rows() == [("pending", 1, "answered with status 500")]
    pause = case.bank.admin.execute(
        "SELECT extract(epoch FROM try_at - now())::int FROM billing.webhook_deliveries WHERE customer_id = %s",
        (case.customer,),
    ).fetchone()
    assert pause is not None
    assert 0 < pause[0] <= PAUSES_S[0]
    case.make_due()
    case.status = 200
    case.look()
    assert case.rows() == [("delivered", 2, "")]
    assert len({headers["webhook-id"] for headers, _ in case.got}) == 1


def test_a_deadlock_at_its_noting_ends_nothing_but_that_transaction(case: Case, monkeypatch: pytest.MonkeyPatch):
    """It is noted again; the loop that delivers everybody's webhooks goes on."""
    case.set()
    case.charge(60)
    case.leave()
    tried, end = list[UUID](), alert_store.end

    async def deadlocked(connection: Connection, id_: UUID, *, problem: str) -> None:
        tried.append(id_)
        if len(tried) == 1:
            raise DeadlockDetected
        await end(connection, id_, problem=problem)

    monkeypatch.setattr(alert_store, "end", deadlocked)
    case.look()
    assert len(tried) == 2
    assert case.rows() == [("delivered", 1, "")]


def test_after_a_day_and_at_gone_it_is_given_up(case: Case):
    """Nothing is tried for ever."""
    case.set()
    case.charge(60)
    case.leave()
    case.status = 500
    case.make_due(age="1 day")
    case.look()
    assert case.rows() == [("failed", 1, "answered with status 500")]
    case.charge(85)
    case.leave()
    case.status = 410
    case.look()
    assert sorted(case.rows()) == [("failed", 1, "answered with status 410"), ("failed", 1, "answered with status 500")]


def test_a_server_that_never_answers_holds_up_its_own_customer_only(case: Case, other_case: Case):
    """Also when far more of its webhooks are due, and for longer, than are tried at once."""
    case.set()
    other_case.set()
    case.answers.clear()

    async def both() -> None:
        async with case.bank.pool.connection() as connection:
            many = [(uuid7(), case.customer, b"{}") for _ in range(2 * AT_ONCE)]
            await alert_store.add(connection, many)
            await connection.execute("UPDATE billing.webhook_deliveries SET try_at = now() - interval '1 hour'")
            await alert_store.add(connection, [(uuid7(), other_case.customer, b"{}")])
        loop = asyncio.create_task(case.deliveries.run())
        async with asyncio.timeout(TIMEOUT_S / 2):
            await other_case.heard.wait()
        assert len(case.got) <= 1
        loop.cancel()
        await asyncio.gather(loop, return_exceptions=True)
        case.answers.set()

    case.bank.run(both())


def test_a_customers_webhooks_go_out_in_order(case: Case):
    """One at a time, also when several replicas deliver them; each tells its place by its sequence."""
    case.set()
    case.bank.open(case.customer, 10_000)
    for amount in (10_100, 45):
        case.charge(amount)
    case.leave()
    told = [(uuid4(), case.customer, json.dumps({"n": n}).encode()) for n in range(20)]

    async def both() -> None:
        async with case.bank.pool.connection() as connection:
            await alert_store.add(connection, told)
        other = case.replica()
        loops = [asyncio.create_task(each.run()) for each in (case.deliveries, other)]
        async with asyncio.timeout(WITHIN_S):
            while len(case.got) < 2 + len(told):
                case.heard.clear()
                await case.heard.wait()
        for loop in loops:
            loop.cancel()
        await asyncio.gather(*loops, return_exceptions=True)

    case.bank.run(both())
    bodies = [json.loads(body) for _, body in case.got]
    assert [each["type"] for each in bodies[:2]] == ["balance.low", "balance.exhausted"]
    assert bodies[0]["data"]["sequence"] < bodies[1]["data"]["sequence"]
    assert [each["n"] for each in bodies[2:]] == list(range(len(told)))


def test_a_webhook_that_is_not_taken_holds_up_the_later_ones_for_minutes_only(case: Case):
    """A receiver that is down for a moment hears all in order; one that refuses a webhook for ever hears the others."""
    case.set()
    case.charge(145)
    case.leave()
    case.status = 500
    case.look()
    case.look()
    assert sorted(case.rows()) == [("pending", 0, ""), ("pending", 1, "answered with status 500")]
    case.bank.admin.execute(
        "UPDATE billing.webhook_deliveries SET made_at = made_at - %s * interval '1 second' WHERE customer_id = %s",
        (HOLD_UP_S, case.customer),
    )
    case.status = 200
    case.look()
    assert sorted(row[0] for row in case.rows()) == ["delivered", "pending"]
    assert [json.loads(body)["type"] for _, body in case.got] == ["balance.low", "balance.exhausted"]


def test_two_replicas_deliver_a_webhook_once(case: Case):
    """What one has taken the other leaves alone."""
    case.set()
    case.charge(60)
    case.leave()
    other = case.replica()

    async def both() -> None:
        await asyncio.gather(look(case.deliveries), look(other))

    case.bank.run(both())
    assert len(case.got) == 1


def test_without_a_url_there_is_no_webhook_and_one_under_way_ends(case: Case):
    """Also when the customer took the URL away meanwhile."""
    case.charge(60)
    case.leave()
    assert case.rows() == []
    case.set()
    case.charge(85)
    case.leave()
    case.set(url="")
    case.look()
    assert (case.got, case.rows()) == ([], [("failed", 1, "the customer has no webhook")])


def test_an_address_that_is_allowed_no_longer_gets_nothing(case: Case):
    """The address is judged at each try, not when it was set."""
    case.set()
    case.charge(60)
    case.leave()
    case.config = dataclasses.replace(CONFIG, webhook_networks=())
    case.look()
    assert (case.got, case.rows()[0][0]) == ([], "pending")


def test_a_secret_is_shown_when_it_is_made_and_kept_until_another_is_asked_for(case: Case):
    """Another URL keeps it: a receiver that moves needs no new one."""
    first = case.set()
    assert first.startswith("whsec_")
    assert case.set(url=f"{case.url}?moved") == ""
    assert case.set(new_key=True) not in ("", first)


@pytest.mark.parametrize("url", ["http://10.0.0.1/", "https://169.254.169.254/", "ftp://example.com/", "nonsense"])
def test_a_url_that_we_would_not_call_is_refused_at_once(case: Case, url: str):
    """With the field named."""
    with pytest.raises(TollbridgeError) as caught:
        case.set(url=url)
    assert (caught.value.code, caught.value.details["param"]) == (Code.INVALID_REQUEST, "webhook_url")


def test_alerts_of_nobody_are_not_found(case: Case):
    """They belong to an account; one that set nothing has the default."""
    case.bank.run(case.alerts.get(case.customer))
    for asking in (case.alerts.get("nobody"), case.alerts.set("nobody", low_nano_usd=None, url="", new_key=False)):
        with pytest.raises(TollbridgeError) as caught:
            case.bank.run(asking)
        assert caught.value.code is Code.NOT_FOUND
    assert case.bank.run(case.alerts.get(case.customer)).low_nano_usd == 100


def test_what_ended_long_ago_is_dropped_and_what_is_under_way_never(case: Case):
    """The table does not grow for ever."""
    case.set()
    case.charge(60)
    case.leave()
    case.look()
    case.status = 500
    case.charge(85)
    case.leave()
    case.look()
    assert [row[0] for row in case.rows()] in (["delivered", "pending"], ["pending", "delivered"])
    case.bank.run(case.deliveries.forget())
    assert len(case.rows()) == 2
    case.bank.admin.execute(
        "UPDATE billing.webhook_deliveries SET made_at = made_at - interval '31 days',"
        " ended_at = ended_at - interval '31 days' WHERE customer_id = %s",
        (case.customer,),
    )
    case.bank.run(case.deliveries.forget())
    assert [row[0] for row in case.rows()] == ["pending"]
