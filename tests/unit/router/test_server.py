"""What router answers over RPC: to whom, and with what left out."""

from chassis.errors import Code
from chassis.rpc import CallContext
from services.router.breaker import Verdict
from tests.unit.router.pair import CONFIG, Pair, ask, end, handler, refusal, rows
from tollbridge.router.v1 import router_pb2 as pb


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
        assert answer.without_stream_options


async def test_what_is_done_to_one_decision_s_price_does_not_change_the_next(pair: Pair) -> None:
    """Prices are put into words once, and copied into each answer."""
    decide, told = handler(pair.one, "Decide"), []
    for _ in range(2):
        wanted = ask("free")
        request = pb.DecideRequest(
            request_id=wanted.request_id, attempt_id=wanted.attempt_id, spender=wanted.spender, model="free"
        )
        answer = await decide(request, CallContext(caller="edge", timeout_s=5, traceparent=""))
        assert isinstance(answer, pb.DecideResponse)
        told.append((answer.price.id, answer.price.rates.input))
        answer.price.id, answer.price.rates.input = "", 7
    assert told[0] == told[1] != ("", 7)


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
    quote = handler(pair.one, "Quote")
    found = await quote(wanted, context)
    assert (found.model, [offer.price.rates.input for offer in found.offers]) == ("both", [10**9] * 2)
    held = await pair.one.decider.decide(ask("both"))
    assert held.target.account.id == "b1"
    await pair.one.decider.finish(end(held.id, Verdict.CREDENTIAL_REFUSED))
    _, routes = pair.one.decider.quote(model="both", operation="chat")
    assert [route.provider.id for route in routes] == ["a", "b"]
    assert (await refusal(quote(pb.QuoteRequest(model="keyless"), context))).code is Code.PROVIDER_NOT_CONFIGURED
    assert await rows(pair) == {}


async def test_an_account_that_left_the_config_is_drained_until_its_last_request_ends(pair: Pair) -> None:
    """An operator who takes one out sees when nothing of it runs any more."""
    held = await pair.one.decider.decide(ask("narrow"))
    gone = held.target.account.id
    pair.path.write_text(
        pair.path.read_text().replace(f"{{id: {gone}, api_key: canary-{gone}", f"{{id: new, api_key: canary-{gone}")
    )
    await pair.one.watch.load_first()
    context = CallContext(caller="edge", timeout_s=5, traceparent="")

    async def shown() -> dict[str, tuple[str, int]]:
        listed = await handler(pair.one, "ListAccounts")(pb.ListAccountsRequest(), context)
        assert isinstance(listed, pb.ListAccountsResponse)
        return {each.id: (each.state, each.in_use) for each in listed.accounts}

    assert (await shown())[gone] == ("drained", 1)
    await pair.one.decider.finish(end(held.id, Verdict.GOOD))
    assert gone not in await shown()
