"""Which account a request goes to: fail-over, cool-downs, prices. On a real PostgreSQL, by two replicas of router."""

import dataclasses
import time
import uuid

import psycopg
import pytest

from chassis import db, ids
from chassis.errors import Code
from chassis.rpc import CallContext
from services.router.breaker import CREDENTIAL_BASE_S, Verdict
from tests.unit.router.pair import CONFIG, Pair, ask, end, handler, refusal, rows
from tollbridge.router.v1 import router_pb2 as pb


async def test_a_failed_attempt_is_ended_and_its_account_left_out(pair: Pair) -> None:
    """Fail-over: the next decision gives the slot back and goes elsewhere, until nothing is left to try."""
    first = await pair.one.decider.decide(ask("narrow"))
    assert first.may_retry
    failed = end(first.id, Verdict.FAILED)
    second = await pair.one.decider.decide(ask("narrow", request_id=first.request_id, tried=(failed,)))
    assert second.target.account.id != first.target.account.id
    assert not second.may_retry
    assert await rows(pair) == {second.target.account.id: 1}
    last = ask("narrow", request_id=first.request_id, tried=(failed, end(second.id, Verdict.FAILED)))
    error = await refusal(pair.one.decider.decide(last))
    assert error.code is Code.PROVIDER_ERROR
    assert error.details == {"last_outcome": "failed", "attempts": "2"}
    assert await rows(pair) == {}


async def test_priorities_fall_back_to_the_next(pair: Pair) -> None:
    """The lower number first; the next priority when that failed."""
    first = await pair.one.decider.decide(ask("both"))
    assert first.target.account.id == "b1"
    second = await pair.one.decider.decide(ask("both", tried=(end(first.id, Verdict.RATE_LIMITED),)))
    assert second.target.route.provider.id == "a"


async def test_rate_limited_accounts_answer_overloaded_with_their_pause(pair: Pair) -> None:
    """The provider's Retry-After comes back to the client, bounded by a minute."""
    first = await pair.one.decider.decide(ask("free"))
    await pair.one.decider.finish(end(first.id, Verdict.RATE_LIMITED, retry_after_s=7.0))
    error = await refusal(pair.one.decider.decide(ask("free")))
    assert error.code is Code.OVERLOADED
    assert error.retry_after_s == pytest.approx(7, abs=0.5)


@pytest.mark.parametrize("model", ["free", "narrow"])
async def test_another_replica_learns_from_an_end_that_names_its_account(pair: Pair, model: str) -> None:
    """An end that arrives where nothing was decided rests the right account there, with its Retry-After, and once."""
    first = await pair.one.decider.decide(ask(model))
    account_id = first.target.account.id
    outcome = pb.AttemptOutcome(
        attempt_id=first.id,
        provider_account_id=account_id,
        outcome=pb.OUTCOME_RATE_LIMITED,
        retry_after_s=9,
    )
    context = CallContext(caller="edge", timeout_s=5, traceparent="")
    for _ in range(2):
        request = pb.FinishAttemptRequest(request_id=first.request_id, outcome=outcome)
        await handler(pair.two, "FinishAttempt")(request, context)
    answer = await handler(pair.two, "ListAccounts")(pb.ListAccountsRequest(), context)
    assert isinstance(answer, pb.ListAccountsResponse)
    found = {each.id: each for each in answer.accounts}
    assert (found[account_id].state, found[account_id].in_use) == ("cooling", 0)
    assert found[account_id].error_rate == 1
    assert all(each.state == "ready" for each in answer.accounts if each.id != account_id)


async def test_another_replica_fails_over_to_another_account(pair: Pair) -> None:
    """The next decision, asked of a replica that made none of the former, goes to an account that was not tried."""
    first = await pair.one.decider.decide(ask("both"))
    assert first.target.account.id == "b1"
    failed = end(first.id, Verdict.FAILED, account_id="b1")
    second = await pair.two.decider.decide(ask("both", request_id=first.request_id, tried=(failed,)))
    assert second.target.route.provider.id == "a"


async def test_ends_that_another_replica_decided_on_and_that_fail_together_are_one_trouble(pair: Pair) -> None:
    """Forty attempts that began before the first one's rest cost the account its first pause, not the fortieth."""
    context = CallContext(caller="edge", timeout_s=5, traceparent="")
    a_minute_ago_ms = int(time.time() * 1000) - 60_000
    began = [str(ids.uuid7_at(a_minute_ago_ms + nth)) for nth in range(40)]
    for attempt_id in began:
        outcome = pb.AttemptOutcome(
            attempt_id=attempt_id, provider_account_id="b1", outcome=pb.OUTCOME_CREDENTIAL_REFUSED
        )
        request = pb.FinishAttemptRequest(request_id=attempt_id, outcome=outcome)
        await handler(pair.two, "FinishAttempt")(request, context)
    refused = await refusal(pair.two.decider.decide(ask("free")))
    assert refused.code is Code.OVERLOADED
    answer = await handler(pair.two, "ListAccounts")(pb.ListAccountsRequest(), context)
    assert isinstance(answer, pb.ListAccountsResponse)
    [b1] = [each for each in answer.accounts if each.id == "b1"]
    assert b1.state == "broken"
    assert b1.cooled_until_us / 1e6 - time.time() == pytest.approx(CREDENTIAL_BASE_S, abs=5)


async def test_an_account_that_the_config_does_not_have_teaches_nothing(pair: Pair) -> None:
    """An end that names one is accepted and leaves no trace."""
    await pair.two.decider.finish(end(str(uuid.uuid4()), Verdict.FAILED, account_id="nobody's"))
    assert (await pair.two.decider.decide(ask("free"))).target.account.id == "b1"


@pytest.mark.parametrize(
    ("model", "code"),
    [
        ("nobody", Code.MODEL_NOT_FOUND),
        ("routeless", Code.PROVIDER_NOT_CONFIGURED),
        ("keyless", Code.PROVIDER_NOT_CONFIGURED),
    ],
)
async def test_what_can_not_be_served_says_so(pair: Pair, model: str, code: Code) -> None:
    """An unknown model, one without routes and one whose provider has no key are told apart."""
    assert (await refusal(pair.one.decider.decide(ask(model)))).code is code


async def test_an_alias_is_the_model(pair: Pair) -> None:
    """An alias resolves to the public id."""
    assert (await pair.one.decider.decide(ask("nick"))).model.id == "free"


async def test_a_new_config_leaves_running_attempts_and_old_prices_alone(pair: Pair) -> None:
    """A changed price is for new attempts; the old version stays readable, and can be asked for."""
    wanted = ask("free")
    before = await pair.one.decider.decide(wanted)
    pair.path.write_text(CONFIG.replace("PRICE", "9"))
    for parts in (pair.one, pair.two):
        await parts.watch.load_first()
    assert (await pair.one.decider.decide(wanted)).price == before.price
    after = await pair.one.decider.decide(ask("free"))
    assert after.price.rates.input == 9 * before.price.rates.input
    assert await pair.two.desk.price(before.price.id) == before.price
    accepted = await pair.two.decider.decide(ask("free", price_id=before.price.id))
    assert accepted.price == before.price


async def test_price_versions_refuse_every_change(pair: Pair) -> None:
    """Not even the owner's role, nor the database's owner, changes or deletes one."""
    for statement in ("UPDATE router.price_versions SET content = '{}'", "DELETE FROM router.price_versions"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            async with db.transaction(pair.pool) as connection:
                await connection.execute(statement)  # type: ignore[call-overload]  # a literal from above


async def test_work_that_runs_at_an_account_is_asked_for_there(pair: Pair) -> None:
    """Whatever account would be chosen; one that is gone, or has failed it, is nobody's place."""
    for account_id in ("b1", "a1"):
        found = await pair.one.decider.decide(dataclasses.replace(ask("both"), account_id=account_id))
        assert found.target.account.id == account_id
    gone = dataclasses.replace(ask("both"), account_id="gone")
    assert (await refusal(pair.one.decider.decide(gone))).code is Code.PROVIDER_ERROR
