"""Router's gRPC face: convert, one call, convert back. Each method names its callers; credentials go to two of them."""

import dataclasses
import functools
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol

from google.protobuf.message import Message

from chassis import ids
from chassis.config_state import ConfigState, config_state_handler
from chassis.errors import Code, TollbridgeError
from chassis.ids import canonical
from chassis.rpc import CallContext, Handler, RpcService
from pricing.prices import PriceVersion, Rates
from services.router.asked import Ask, End
from services.router.attempts import MAX_AGE_S, Attempt, Page
from services.router.breaker import Breaker, Verdict
from services.router.decide import Decider
from services.router.metrics import Decisions
from services.router.registry import Bounds, Model, Registry
from tollbridge.router.v1 import router_pb2 as pb

CREDENTIAL_HOLDERS = frozenset({"edge", "tasks"})
"""Who calls providers, and so may hold a credential for an attempt."""
SPENDERS = frozenset({"edge", "tasks"})
DECIDERS = SPENDERS | {"teams"}
"""Other teams call providers by themselves, with their own credentials."""
OPERATORS = frozenset({"edge", "cli"})
RENEW_EVERY_S = 10.0
MAX_LISTED = 10_000
MAX_RETRY_AFTER_S = 3600.0
MAX_PRICES = 1000
"""Kept as they are told; a price is told with every decision."""

_VERDICTS = {
    pb.OUTCOME_SUCCESS: Verdict.GOOD,
    pb.OUTCOME_REJECTED: Verdict.NOTHING,
    pb.OUTCOME_RATE_LIMITED: Verdict.RATE_LIMITED,
    pb.OUTCOME_CREDENTIAL_REFUSED: Verdict.CREDENTIAL_REFUSED,
    pb.OUTCOME_SERVER_ERROR: Verdict.FAILED,
    pb.OUTCOME_MODEL_UNKNOWN: Verdict.MODEL_UNKNOWN,
    pb.OUTCOME_NOT_OFFERED: Verdict.NOTHING,
    pb.OUTCOME_TIMED_OUT: Verdict.FAILED,
    pb.OUTCOME_UNREACHABLE: Verdict.FAILED,
    pb.OUTCOME_CANCELLED: Verdict.NOTHING,
}


class Desk(Protocol):
    """What is read from the database for the answers below."""

    async def price(self, price_id: str) -> PriceVersion: ...

    async def in_use(self) -> dict[str, int]: ...


class RouterServer:
    """The handlers."""

    def __init__(
        self,
        *,
        decider: Decider,
        desk: Desk,
        breaker: Breaker,
        load_of: Callable[[str], int],
        config_state: Callable[[], ConfigState],
        decisions: Decisions,
    ) -> None:
        self._decider, self._desk, self._breaker = decider, desk, breaker
        self._load_of, self._config_state, self._decisions = load_of, config_state, decisions
        self._price = functools.lru_cache(maxsize=MAX_PRICES)(_price)  # as part of a message it is copied

    def service(self, *, everybody: frozenset[str]) -> RpcService:
        """What the RPC server is given; `everybody` is each caller that has a token."""

        def handler(run: Callable[..., Awaitable[Message]], callers: frozenset[str]) -> Handler:
            return Handler(run=run, callers=callers)

        return RpcService(
            descriptor=pb.DESCRIPTOR.services_by_name["RouterService"],
            handlers={
                "Decide": handler(self.decide, DECIDERS),
                "FinishAttempt": handler(self.finish_attempt, DECIDERS),
                "StateAttempts": handler(self.state_attempts, SPENDERS),
                "Quote": handler(self.quote, everybody),
                "ListModels": handler(self.list_models, everybody),
                "GetPriceVersion": handler(self.get_price_version, everybody),
                "ListAccounts": handler(self.list_accounts, OPERATORS),
                "GetConfigState": config_state_handler(pb.GetConfigStateResponse, self._config_state, OPERATORS),
            },
        )

    async def decide(self, request: pb.DecideRequest, context: CallContext) -> pb.DecideResponse:
        ask = Ask(
            request_id=canonical(request.request_id, "request_id"),
            attempt_id=canonical(request.attempt_id, "attempt_id"),
            spender=canonical(request.spender, "spender"),
            model=request.model,
            operation=request.operation,
            tried=tuple(map(_end, request.tried)),
            price_id=request.price_version,
            account_id=request.provider_account_id,
            patience_s=context.timeout_s,
        )
        try:
            attempt = await self._decider.decide(ask)
        except TollbridgeError as error:
            self._decisions.count(self._configured(request.model), error.code.value)
            raise
        self._decisions.count(attempt.model.config_id, "routed")
        price = self._price(attempt.price)
        return _decision(attempt, price=price, with_credential=context.caller in CREDENTIAL_HOLDERS)

    async def finish_attempt(self, request: pb.FinishAttemptRequest, _: CallContext) -> pb.FinishAttemptResponse:
        canonical(request.request_id, "request_id")
        await self._decider.finish(_end(request.outcome))
        return pb.FinishAttemptResponse()

    async def state_attempts(self, request: pb.StateAttemptsRequest, _: CallContext) -> pb.StateAttemptsResponse:
        if len(request.attempt_ids) > MAX_LISTED:
            raise TollbridgeError(Code.INVALID_REQUEST, "Too many attempts.", details={"param": "attempt_ids"})
        page = Page(
            spender=canonical(request.spender, "spender"),
            as_of=canonical(request.as_of, "as_of"),
            listed=frozenset(canonical(attempt_id, "attempt_ids") for attempt_id in request.attempt_ids),
            from_id=canonical(request.from_id, "from_id") if request.from_id else "",
            until_id=canonical(request.until_id, "until_id") if request.until_id else "",
        )
        await self._decider.state(page)
        return pb.StateAttemptsResponse(renew_in_s=RENEW_EVERY_S)

    async def quote(self, request: pb.QuoteRequest, _: CallContext) -> pb.QuoteResponse:
        model, routes = self._decider.quote(model=request.model, operation=request.operation)
        offers = [
            pb.Offer(price=_price(route.price), provider_model=route.provider_model, variants=_variants(route.variants))
            for route in routes
        ]
        return pb.QuoteResponse(model=model.id, bounds=_bounds(model.bounds), offers=offers)

    async def list_models(self, _request: pb.ListModelsRequest, _: CallContext) -> pb.ListModelsResponse:
        models = map(_model, self._decider.registry.models)
        return pb.ListModelsResponse(models=models, config_hash=self._config_state().hash)

    async def get_price_version(self, request: pb.GetPriceVersionRequest, _: CallContext) -> pb.GetPriceVersionResponse:
        return pb.GetPriceVersionResponse(price=_price(await self._desk.price(request.id)))

    async def list_accounts(self, _request: pb.ListAccountsRequest, _: CallContext) -> pb.ListAccountsResponse:
        registry: Registry = self._decider.registry
        taken = await self._desk.in_use() if registry.slots else {}
        now_s, now_us = time.monotonic(), time.time_ns() // 1000
        answer = pb.ListAccountsResponse()
        for account in registry.accounts.values():
            rests_s = self._breaker.rests_for_s(account.id, now_s=now_s)
            limited = account.slots is not None
            answer.accounts.add(
                id=account.id,
                provider_id=account.provider_id,
                state=self._breaker.state(account.id, now_s=now_s),
                slots=account.slots or 0,
                in_use=taken.get(account.id, 0) if limited else self._load_of(account.id),
                cooled_until_us=now_us + int(rests_s * 1e6) if rests_s else 0,
                error_rate=self._breaker.error_rate(account.id, now_s=now_s),
            )
        for account_id, in_use in taken.items():  # it left the config: what runs there ends, nothing new begins
            if in_use and account_id not in registry.accounts:
                answer.accounts.add(id=account_id, state="drained", in_use=in_use)
        return answer

    def _configured(self, name: str) -> str:
        try:
            model = self._decider.registry.find(name)
        except TollbridgeError:
            return ""
        return model.config_id if model else ""


def _end(outcome: pb.AttemptOutcome) -> End:
    verdict = _VERDICTS.get(outcome.outcome)
    if verdict is None:
        raise TollbridgeError(Code.INVALID_REQUEST, "An attempt without an outcome.", details={"param": "outcome"})
    retry_after_s = outcome.retry_after_s
    attempt_id = canonical(outcome.attempt_id, "attempt_id")
    return End(
        attempt_id=attempt_id,
        verdict=verdict,
        name=pb.Outcome.Name(outcome.outcome).removeprefix("OUTCOME_").lower(),
        retry_after_s=min(retry_after_s, MAX_RETRY_AFTER_S) if retry_after_s > 0 else 0.0,
        account_id=outcome.provider_account_id,
        age_s=_age_s(attempt_id),
        first_byte_s=outcome.first_byte_s if outcome.first_byte_s > 0 else 0.0,
    )


def _age_s(attempt_id: str) -> float:
    """How long ago the id was made, by its own time; 0 where it doesn't say, or clocks disagree."""
    made = uuid.UUID(attempt_id)
    age_s = time.time() - ids.unix_ms(made) / 1000 if made.version == 7 else 0.0
    return age_s if 0 < age_s <= MAX_AGE_S else 0.0


def _decision(attempt: Attempt, *, price: pb.PriceVersion, with_credential: bool) -> pb.DecideResponse:
    route, account = attempt.target.route, attempt.target.account
    provider = route.provider
    return pb.DecideResponse(
        attempt_id=attempt.id,
        model=attempt.model.id,
        provider_id=provider.id,
        provider_account_id=account.id,
        protocol=provider.protocol,
        base_url=provider.base_url,
        credential=account.api_key if with_credential else "",
        provider_model=route.provider_model,
        max_tokens_field=route.max_tokens_field,
        timeouts=pb.Timeouts(
            connect_s=provider.timeouts.connect_s,
            first_byte_s=attempt.first_byte_s,
            idle_s=provider.timeouts.idle_s,
            total_s=provider.timeouts.total_s,
        ),
        on_disconnect=provider.on_disconnect,
        drain_s=provider.drain_s,
        drain_at_once=provider.drain_at_once,
        price=price,
        bounds=_bounds(attempt.model.bounds),
        may_retry=attempt.may_retry,
        without_stream_options=not provider.stream_options,
    )


def _model(model: Model) -> pb.Model:
    price = model.current_price
    return pb.Model(
        id=model.id,
        display_name=model.display_name,
        owned_by=model.owned_by,
        category=model.category,
        capabilities=model.capabilities,
        bounds=_bounds(model.bounds),
        price=None if price is None else _price(price),
        aliases=model.aliases,
        created_at_us=model.created_at_us,
        configured=model.is_configured,
        credits_per_request=model.credits_per_request,
        variants=_variants(model.current_variants),
    )


def _variants(variants: Iterable[tuple[str, PriceVersion]]) -> list[pb.PriceVariant]:
    return [pb.PriceVariant(name=name, price=_price(price)) for name, price in variants]


def _price(price: PriceVersion) -> pb.PriceVersion:
    return pb.PriceVersion(
        id=price.id,
        rates=_rates(price.rates),
        markup_ppm=price.markup_ppm,
        cost=_rates(price.cost),
        cost_reported=price.cost_reported,
    )


def _rates(rates: Rates) -> pb.Rates:
    return pb.Rates(**dataclasses.asdict(rates))


def _bounds(bounds: Bounds) -> pb.ModelBounds:
    return pb.ModelBounds(**dataclasses.asdict(bounds))
