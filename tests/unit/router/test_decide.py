"""Decisions over one real PostgreSQL, by two replicas of router."""

import asyncio
import dataclasses
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import psycopg
import pytest
from prometheus_client import CollectorRegistry

from chassis import db, ids
from chassis.errors import Code, TollbridgeError
from chassis.rpc import CallContext, Handler
from services.router import store
from services.router.attempts import Page
from services.router.breaker import CREDENTIAL_BASE_S, Verdict
from services.router.decide import Ask, End
from services.router.parts import Parts, build
from tollbridge.router.v1 import router_pb2 as pb

CONFIG = """
slots: {wait_s: 0.3}
providers:
  - id: a
    protocol: openai
    base_url: http://127.0.0.1:9/v1
    accounts: [{id: a1, api_key: canary-a1, slots: 2}, {id: a2, api_key: canary-a2, slots: 3}]
  - {id: b, protocol: openai, base_url: http://127.0.0.1:9/v1, accounts: [{id: b1, api_key: canary-b1}]}
  - id: gone
    protocol: openai
    base_url: http://127.0.0.1:9/v1
    without_key: omit
    accounts: [{id: g, api_key: "${NO}"}]
models:
  - {id: narrow, price: {input: 1, output: 2}, routes: [{provider: a, model: m}]}
  - {id: free, aliases: [nick], price: {input: PRICE, output: 2}, routes: [{provider: b, model: m}]}
  - id: both
    price: {input: 1, output: 2}
    routes: [{provider: b, model: m, priority: 1}, {provider: a, model: m, priority: 2}]
  - {id: keyless, price: {input: 1, output: 2}, routes: [{provider: gone, model: m}]}
  - {id: routeless, price: {input: 1, output: 2}, routes: []}
"""


@dataclasses.dataclass(kw_only=True)
class Pair:
    """Two replicas on one database."""

    one: Parts
    two: Parts
    pool: db.Pool
    path: Path


@pytest.fixture(scope="module")
def schema(postgres_url: str) -> str:
    db.migrate(postgres_url, service="router")
    return postgres_url


@pytest.fixture
async def pair(schema: str, tmp_path: Path) -> AsyncIterator[Pair]:
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG.replace("PRICE", "1"))
    with psycopg.connect(schema, autocommit=True) as connection:
        connection.execute("DELETE FROM router.slots")
        connection.execute("UPDATE router.provider_accounts SET in_use = 0")
    pool = await db.open_pool(schema, role="router", max_size=8)
    made = [
        build(pool=pool, config_path=path, everybody=frozenset({"edge", "other"}), metrics=CollectorRegistry())
        for _ in range(2)
    ]
    for parts in made:
        await parts.watch.load_first()
    yield Pair(one=made[0], two=made[1], pool=pool, path=path)
    await pool.close()


def ask(model: str, **more: object) -> Ask:
    ids = {name: str(uuid.uuid4()) for name in ("request_id", "attempt_id", "spender")}
    return Ask(**{**ids, "model": model, "operation": "chat", **more})  # type: ignore[arg-type]


def end(attempt_id: str, verdict: Verdict = Verdict.GOOD, **more: object) -> End:
    return End(attempt_id=attempt_id, verdict=verdict, name=verdict.value, **more)  # type: ignore[arg-type]


async def rows(pair: Pair) -> dict[str, int]:
    async with db.transaction(pair.pool) as connection:
        cursor = await connection.execute("SELECT account_id, count(*) FROM router.slots GROUP BY 1")
        counted = {str(row[0]): int(row[1]) for row in await cursor.fetchall()}
        in_use = {name: count for name, count in (await store.slots_in_use(connection)).items() if count}
    assert in_use == counted
    return counted


async def refusal(call: Awaitable[object]) -> TollbridgeError:
    with pytest.raises(TollbridgeError) as caught:
        await call
    return caught.value


async def test_slots_are_never_exceeded_by_two_replicas(pair: Pair) -> None:
    """Sixty requests at once over two replicas share five slots, and each slot is handed on when it is given back."""
    running: dict[str, int] = {"a1": 0, "a2": 0}
    most = dict(running)

    async def one(number: int) -> None:
        parts = (pair.one, pair.two)[number % 2]
        wanted = ask("narrow")
        deadline = time.monotonic() + 30
        while True:
            try:
                attempt = await parts.decider.decide(wanted)
                break
            except TollbridgeError as error:
                if error.code is not Code.OVERLOADED or time.monotonic() > deadline:
                    raise
        account = attempt.target.account.id
        running[account] += 1
        most[account] = max(most[account], running[account])
        await asyncio.sleep(0.005)
        running[account] -= 1
        await parts.decider.finish(end(wanted.attempt_id))

    await asyncio.gather(*(one(number) for number in range(60)))
    assert most["a1"] <= 2
    assert most["a2"] <= 3
    assert await rows(pair) == {}


async def test_a_busy_pool_answers_overloaded_after_the_wait(pair: Pair) -> None:
    """When all slots stay busy for `slots.wait_s`, the refusal says when to come back, and takes nothing."""
    held = [await pair.one.decider.decide(ask("narrow")) for _ in range(5)]
    began = time.monotonic()
    error = await refusal(pair.two.decider.decide(ask("narrow")))
    assert (error.code, error.retry_after_s) == (Code.OVERLOADED, 1)
    assert 0.2 < time.monotonic() - began < 3
    assert sum((await rows(pair)).values()) == len(held) == 5


async def test_a_freed_slot_goes_to_who_waits(pair: Pair) -> None:
    """A request in line gets the slot that another replica's attempt gives back."""
    held = [await pair.one.decider.decide(ask("narrow")) for _ in range(5)]
    waiting = asyncio.create_task(pair.two.decider.decide(ask("narrow")))
    await asyncio.sleep(0)
    await pair.one.decider.finish(end(held[0].id))
    attempt = await waiting
    assert attempt.target.account.id == held[0].target.account.id


@pytest.mark.parametrize("model", ["narrow", "free"])
async def test_decide_asked_again_is_the_same_decision(pair: Pair, model: str) -> None:
    """A lost reply is asked again: same account, one slot, also when both calls run at once."""
    wanted = ask(model)
    first, second = await asyncio.gather(pair.one.decider.decide(wanted), pair.one.decider.decide(wanted))
    third = await pair.one.decider.decide(wanted)
    assert first.target.account.id == second.target.account.id == third.target.account.id
    assert sum((await rows(pair)).values()) == (1 if model == "narrow" else 0)


async def test_another_replica_finds_the_slot_of_the_attempt(pair: Pair) -> None:
    """Asked of the other replica, an attempt keeps the slot that it has."""
    for _ in range(4):
        wanted = ask("narrow")
        one = await pair.one.decider.decide(wanted)
        two = await pair.two.decider.decide(wanted)
        assert one.target.account.id == two.target.account.id
    assert sum((await rows(pair)).values()) == 4


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
    began = [str(ids.uuid7()) for _ in range(40)]
    await asyncio.sleep(0.01)
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


async def test_unlimited_accounts_need_no_database(pair: Pair) -> None:
    """With PostgreSQL gone, accounts without slots are still decided on, and limited ones refuse within a second."""
    await pair.pool.close()
    attempt = await pair.one.decider.decide(ask("free"))
    await pair.one.decider.finish(end(attempt.id))
    began = time.monotonic()
    assert (await refusal(pair.one.decider.decide(ask("narrow")))).code is Code.UNAVAILABLE
    assert time.monotonic() - began < 1.5


async def test_a_statement_frees_what_it_does_not_list(pair: Pair) -> None:
    """Of its spender and of its time: what began after it was made stays, however late it is executed."""
    spender = str(uuid.uuid4())
    at = [str(ids.uuid7_at(1_700_000_000_000 + ms)) for ms in range(5)]
    for attempt_id in at[:3]:
        await pair.one.decider.decide(ask("narrow", spender=spender, attempt_id=attempt_id))
    other = await pair.one.decider.decide(ask("narrow"))
    await pair.two.decider.state(Page(spender=spender, as_of=at[2], listed=frozenset({at[1]})))
    assert await slots(pair) == {at[1], at[2], other.id}
    await pair.two.decider.state(Page(spender=spender, as_of=at[4], listed=frozenset({at[1]}), until_id=at[2]))
    assert await slots(pair) == {at[1], at[2], other.id}
    await pair.two.decider.state(Page(spender=spender, as_of=at[4], listed=frozenset(), from_id=at[2]))
    assert await slots(pair) == {at[1], other.id}


async def slots(pair: Pair) -> set[str]:
    async with db.transaction(pair.pool) as connection:
        cursor = await connection.execute("SELECT attempt_id::text FROM router.slots")
        return {str(row[0]) for row in await cursor.fetchall()}


async def test_silent_spenders_lose_their_slots(pair: Pair) -> None:
    """Only slots of spenders without a statement for the whole time are freed."""
    silent, speaks = await pair.one.decider.decide(ask("narrow")), await pair.one.decider.decide(ask("narrow"))
    async with db.transaction(pair.pool) as connection:
        await connection.execute("UPDATE router.slots SET taken_at = taken_at - interval '1 minute'")
    await pair.one.decider.state(Page(spender=speaks.spender, as_of=speaks.id, listed=frozenset({speaks.id})))
    freed = await db.in_transaction(pair.pool, lambda connection: store.expire_silent(connection, silent_s=35))
    assert freed == 1
    assert sum((await rows(pair)).values()) == 1
    assert silent.id != speaks.id


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


def handler(parts: Parts, name: str) -> Callable[..., Awaitable[object]]:
    found = parts.service.handlers[name]
    assert isinstance(found, Handler)
    return found.run


async def test_credentials_go_only_to_who_calls_providers(pair: Pair) -> None:
    """Edge gets the credential inside the decision; another team gets the route without it."""
    decide = handler(pair.one, "Decide")
    for caller, credential in (("edge", "canary-b1"), ("other", "")):
        wanted = ask("free")
        request = pb.DecideRequest(
            request_id=wanted.request_id, attempt_id=wanted.attempt_id, spender=wanted.spender, model="free"
        )
        answer = await decide(request, CallContext(caller=caller, timeout_s=5, traceparent=""))
        assert isinstance(answer, pb.DecideResponse)
        assert answer.credential == credential
        assert answer.price.id
        assert answer.max_tokens_field == "max_tokens"


async def test_lists_show_no_secret(pair: Pair) -> None:
    """Models, accounts and the state of the config are told without any credential."""
    context = CallContext(caller="edge", timeout_s=5, traceparent="")
    models = await handler(pair.one, "ListModels")(pb.ListModelsRequest(), context)
    accounts = await handler(pair.one, "ListAccounts")(pb.ListAccountsRequest(), context)
    state = await handler(pair.one, "GetConfigState")(pb.GetConfigStateRequest(), context)
    assert isinstance(models, pb.ListModelsResponse)
    assert [model.configured for model in models.models] == [True, True, True, False, False]
    assert isinstance(accounts, pb.ListAccountsResponse)
    assert {each.id: (each.state, each.slots) for each in accounts.accounts} == {
        "a1": ("ready", 2),
        "a2": ("ready", 3),
        "b1": ("ready", 0),
    }
    shown = f"{models}{accounts}{state}{pair.one.decider.registry.providers!r}"
    assert "canary" not in shown
    assert "canary-a1" in CONFIG


async def test_ids_that_are_no_uuids_are_refused(pair: Pair) -> None:
    """A malformed id is the caller's mistake and names its field."""
    request = pb.FinishAttemptRequest(request_id="x")
    context = CallContext(caller="edge", timeout_s=5, traceparent="")
    error = await refusal(handler(pair.one, "FinishAttempt")(request, context))
    assert (error.code, error.details) == (Code.INVALID_REQUEST, {"param": "request_id"})


async def test_a_quote_names_every_price_and_takes_nothing(pair: Pair) -> None:
    """The route that would be chosen now comes first, and one whose accounts all rest comes last."""
    context = CallContext(caller="cli", timeout_s=1, traceparent="")
    wanted = pb.QuoteRequest(model="both", operation="chat")
    handler = pair.one.service.handlers["Quote"]
    assert isinstance(handler, Handler)
    found = await handler.run(wanted, context)
    assert (found.model, [offer.price.rates.input for offer in found.offers]) == ("both", [10**9] * 2)
    held = await pair.one.decider.decide(ask("both"))
    assert held.target.account.id == "b1"
    await pair.one.decider.finish(end(held.id, Verdict.CREDENTIAL_REFUSED))
    _, routes = pair.one.decider.quote(model="both", operation="chat")
    assert [route.provider.id for route in routes] == ["a", "b"]
    assert (await refusal(handler.run(pb.QuoteRequest(model="keyless"), context))).code is Code.PROVIDER_NOT_CONFIGURED
    assert await rows(pair) == {}
