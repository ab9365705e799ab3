"""Admission: whose key it is, whether it may use the model, and the credit that its request could cost at most.

Auth's answers are believed for at most a second and dropped when a key changes. The worst case is drawn before the
provider is called, and bounds what the provider is allowed to generate, so a request can't cost more than was held.

Input is taken for its bytes, since no token is shorter; where credit is short it is counted, so that the last of a
balance still serves. Only there can usage that is plausible exceed what was held, by what a tokenizer is off.
"""

import asyncio
import copy
import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Iterable
from uuid import UUID

from chassis.errors import Code, TollbridgeError
from chassis.telemetry import Tracer
from pricing.charge import ChargeOutOfRange, affordable_output_tokens, worst_case_nano_usd
from pricing.prices import PriceVersion
from services.edge.model_names import may_use
from services.edge.owners import Authority, AuthOwner
from services.edge.paid.max_cost import max_cost_exceeded
from services.edge.paid.paid_request import PaidRequest
from services.edge.spending.purse import Draw, Purse
from tollbridge.auth.v1 import auth_pb2
from upstream.route import Bounds, Route
from upstream.usage import UsageLimits

MAX_KEPT = 50_000
REMEMBERED_S = 10.0
"""How long beyond its time an answer of auth says who is over a limit."""
SOMETHING_TOKENS = 16
"""Output that makes a request worth running when credit is short: beside its thinking, if that has a budget."""
UNKNOWN_MAX_OUTPUT = 16_384
"""What is asked of a model whose `max_output` and context are unknown, when the client sets no limit."""


_SHORT_OF = {
    Code.INSUFFICIENT_CREDITS: "You do not have enough credits for this request: they cover",
    Code.SPEND_CAP_REACHED: "The spend cap of this key or its customer is reached: what is left covers",
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """What a request may do: its draw, the output tokens per choice that the provider is asked for, its bounds.

    `clamped`: these are fewer than the client asked for, or than the model could make, so that it has to be told.
    """

    draw: Draw
    max_tokens: int
    clamped: bool
    limits: UsageLimits

    @property
    def answer_headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """Tells the client of it."""
        return ((b"x-tollbridge-max-tokens", str(self.max_tokens).encode()),) if self.clamped else ()


def api_key_of(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The key from `Authorization: Bearer` or `x-api-key`. Raises INVALID_API_KEY, INVALID_REQUEST when they differ."""
    keys: set[bytes] = set()
    for name, value in headers:
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            keys.add(value[7:].strip())
        elif name == b"x-api-key":
            keys.add(value.strip())
    keys.discard(b"")
    if len(keys) > 1:
        raise TollbridgeError(Code.INVALID_REQUEST, "Authorization and x-api-key hold different keys.")
    if not keys:
        raise TollbridgeError(Code.INVALID_API_KEY, "You must provide an API key in Authorization: Bearer.")
    return keys.pop().decode("latin-1")


class Admission:
    """Lets requests in. Keeps auth's answers for a second, and remembers them a little longer to refuse by."""

    def __init__(
        self,
        *,
        auth: AuthOwner,
        purse: Purse,
        tracer: Tracer,
        clamps_short_credit: Callable[[], bool],
    ) -> None:
        self._auth = auth
        self._purse = purse
        self._tracer = tracer
        self._clamps = clamps_short_credit
        # In the order they were kept in; a plain dict would walk over what was dropped to find its oldest.
        self._kept: OrderedDict[tuple[str, str], tuple[float, Authority]] = OrderedDict()
        self._changes = 0

    async def authorize(self, *, api_key: str, client_ip: str, traceparent: str = "") -> Authority:
        """Who asks. Raises INVALID_API_KEY, CUSTOMER_SUSPENDED, ADDRESS_NOT_ALLOWED, UNAVAILABLE."""
        now_s = asyncio.get_running_loop().time()
        kept = self._kept.get((api_key, client_ip))
        if kept is not None and now_s < kept[0]:
            return kept[1]
        changes = self._changes
        with self._tracer.span("edge.authorize", parent=traceparent) as span:
            authority = await self._auth.authorize(
                api_key=api_key, client_ip=client_ip, traceparent=span.traceparent or traceparent
            )
        if changes == self._changes and authority.keep_s > 0:
            self._keep((api_key, client_ip), authority, now_s=now_s)
        return authority

    def remembered(self, *, api_key: str, client_ip: str) -> Authority | None:
        """Auth's last answer, believed or not: good to say who is over a limit, not to let anybody in."""
        kept = self._kept.get((api_key, client_ip))
        return None if kept is None else kept[1]

    def _keep(self, asked: tuple[str, str], authority: Authority, *, now_s: float) -> None:
        """Keeps an answer as the newest and drops the oldest: of long ago, or that there is no room for."""
        self._kept.pop(asked, None)
        while self._kept:
            until_s, _ = self._kept[next(iter(self._kept))]
            if now_s < until_s + REMEMBERED_S and len(self._kept) < MAX_KEPT:
                break
            self._kept.popitem(last=False)
        self._kept[asked] = (now_s + authority.keep_s, authority)

    async def on_keys_changed(self, data: bytes) -> None:
        """Hears auth's `KeyChangedBatch`: kept answers about a key, or without one all of a customer's, are void."""
        events = auth_pb2.KeyChangedBatch.FromString(data).events
        self._drop(
            keys={event.key_id for event in events if event.key_id},
            customers={event.customer_id for event in events if not event.key_id},
        )

    def forget(self, *, key_id: str = "", customer_id: str = "") -> None:
        """Voids what is kept of a key or a customer that was changed through this edge, before the change is told.

        Whoever has the answer to the change is then never served as before by the edge that gave it.
        """
        self._drop(keys={key_id} - {""}, customers={customer_id} - {""})

    def _drop(self, *, keys: set[str], customers: set[str]) -> None:
        self._changes += 1
        self._kept = OrderedDict(
            (asked, kept)
            for asked, kept in self._kept.items()
            if kept[1].key_id not in keys and kept[1].customer_id not in customers
        )

    def check_model(self, authority: Authority, model: str) -> None:
        """Raises MODEL_NOT_ALLOWED when the key may not use this public model id."""
        if not may_use(authority.models, model):
            message = f"This key may not use the model {model[:200]!r}."
            raise TollbridgeError(Code.MODEL_NOT_ALLOWED, message, details={"param": "model"})

    async def fund(
        self,
        *,
        request: PaidRequest,
        request_id: UUID,
        authority: Authority,
        route: Route,
        before: Allowance | None = None,
        traceparent: str = "",
    ) -> Allowance:
        """Draws what the request can cost on this route. `before`, of an earlier attempt, is kept when it suffices.

        Raises INSUFFICIENT_CREDITS, SPEND_CAP_REACHED, BALANCE_RESERVED, UNAVAILABLE; INVALID_REQUEST for a limit that
        its thinking would use up; MAX_COST_EXCEEDED.
        """
        terms = Terms(request, price=route.price, bounds=route.bounds)
        terms.check_cost()
        if before is not None and terms.worst_nano_usd(before.max_tokens) <= before.draw.amount_nano_usd:
            return terms.allowance(before.draw, wanted_tokens=before.max_tokens, clamped=before.clamped)
        clamps = request.is_clampable and (self._clamps() or request.asked_tokens is None)

        async def draw(terms: Terms) -> Draw:
            with self._tracer.span("edge.draw", parent=traceparent) as span:
                return await self._purse.draw(
                    customer_id=authority.customer_id,
                    request_id=str(request_id),
                    worst_case_nano_usd=terms.worst_nano_usd(terms.wanted_tokens),
                    least_nano_usd=terms.worst_nano_usd(terms.least_tokens) if clamps else 0,
                    caps=authority.caps,
                    replaces=before.draw if before is not None else None,
                    traceparent=span.traceparent or traceparent,
                )

        model = route.provider_model
        try:
            drawn = await draw(terms)
        except TollbridgeError as error:
            if error.code not in _SHORT_OF:
                raise
            affordable_nano_usd = _affordable(error)
            terms = await terms.counted(model, affordable_nano_usd=affordable_nano_usd)
            enough = terms.least_tokens if clamps else terms.wanted_tokens
            if terms.worst_nano_usd(enough) > affordable_nano_usd:
                raise terms.explained(error) from error
            try:
                drawn = await draw(terms)
            except TollbridgeError as again:
                raise terms.explained(again) from again
        if drawn.amount_nano_usd < terms.worst_nano_usd(terms.wanted_tokens):
            terms = await self._counted(terms, model, drawn)
        return terms.allowance(drawn, clamped=terms.over_limit)

    async def _counted(self, terms: "Terms", model: str, drawn: Draw) -> "Terms":
        """The terms by a count of the input; should that not come to an end, nobody else can give the draw back."""
        try:
            return await terms.counted(model, affordable_nano_usd=drawn.amount_nano_usd)
        except BaseException:
            self._purse.give_back(drawn)
            raise


class Terms:
    """What one request costs on one route, by the number of output tokens."""

    def __init__(self, request: PaidRequest, *, price: PriceVersion, bounds: Bounds) -> None:
        self._request = request
        self._price = price
        self._bounds = bounds
        self._input = self._most_input = request.input_tokens(bounds)
        limit = bounds.max_output or bounds.context or UNKNOWN_MAX_OUTPUT
        asked = request.asked_tokens
        known = bool(bounds.max_output or bounds.context)
        self.over_limit = asked is not None and known and asked > limit
        self.wanted_tokens = limit if asked is None or self.over_limit else asked
        if self.wanted_tokens <= request.thinking_budget:
            message = f"max_tokens is at most {self.wanted_tokens} here: it must be more than the thinking budget."
            raise TollbridgeError(Code.INVALID_REQUEST, message, details={"param": "max_tokens"})
        self.least_tokens = min(self.wanted_tokens, request.thinking_budget + SOMETHING_TOKENS)

    def worst_nano_usd(self, tokens: int) -> int:
        """The most that this can cost with so many output tokens per choice."""
        output = self._request.choices * tokens + self._bounds.hidden_output
        try:
            return worst_case_nano_usd(
                self._price, input_tokens=self._input, output_tokens=output, units=self._request.most_units
            )
        except ChargeOutOfRange as error:
            message = "This request could cost more than any request may."
            raise TollbridgeError(Code.INVALID_REQUEST, message, details={"param": "max_tokens"}) from error

    async def counted(self, model: str, *, affordable_nano_usd: int) -> "Terms":
        """The same with the input counted, when so much money is short of it by its bytes and could be enough."""
        least = copy.copy(self)
        least._input = 0
        if least.affordable(affordable_nano_usd) < self.least_tokens or self._is_flat():
            return self
        tokens = await asyncio.to_thread(self._request.most_prompt_tokens, model)
        closer = copy.copy(self)
        closer._input = min(
            self._most_input, tokens + self._request.piece_tokens(self._bounds) + self._bounds.template_tokens
        )
        return closer

    def _is_flat(self) -> bool:
        """Whether the input costs nothing, so that its count changes nothing."""
        return worst_case_nano_usd(self._price, input_tokens=self._most_input, output_tokens=0) == worst_case_nano_usd(
            self._price, input_tokens=0, output_tokens=0
        )

    def check_cost(self) -> None:
        """Raises MAX_COST_EXCEEDED when the client would not pay what this can cost; never clamped to it."""
        most, worst = self._request.max_cost_nano_usd, self.worst_nano_usd(self.wanted_tokens)
        if most is not None and worst > most:
            raise max_cost_exceeded(worst_nano_usd=worst, max_cost_nano_usd=most)

    def affordable(self, nano_usd: int) -> int:
        """Output tokens per choice that so much money covers; negative when not even the input is covered."""
        tokens = affordable_output_tokens(
            self._price, available_nano_usd=nano_usd, input_tokens=self._input, units=self._request.most_units
        )
        tokens -= self._bounds.hidden_output
        if not self._request.choices:  # nothing is generated, so the input is all that must be covered
            return self.wanted_tokens if tokens >= 0 else -1
        return tokens // self._request.choices

    def allowance(self, draw: Draw, *, clamped: bool, wanted_tokens: int = 0) -> Allowance:
        """What the draw allows, of what is wanted."""
        wanted = wanted_tokens or self.wanted_tokens
        tokens = max(1, min(wanted, self.affordable(draw.amount_nano_usd)))
        output = self._request.choices * tokens + self._bounds.hidden_output
        return Allowance(
            draw=draw,
            max_tokens=tokens,
            clamped=clamped or tokens < wanted,
            limits=UsageLimits(
                max_input=self._most_input,
                max_output=output,
                part_tokens=self._request.piece_tokens(self._bounds),
                usual_part_tokens=self._request.usual_piece_tokens(self._bounds),
            ),
        )

    def explained(self, error: TollbridgeError) -> TollbridgeError:
        """A refusal for want of money, or by a spend cap, says how many tokens would be affordable."""
        if error.code not in _SHORT_OF or not error.details.get("affordable_nano_usd", "").isdigit():
            return error
        if not self._request.choices or not self._request.is_clampable:  # fewer tokens would not help
            return error
        if self.worst_nano_usd(0) == self.worst_nano_usd(self.wanted_tokens):  # nor here: priced by the request
            return error
        tokens = max(0, self.affordable(_affordable(error)))
        words = f"{_SHORT_OF[error.code]} {tokens} output tokens"
        if self._request.thinking_budget and tokens < self.least_tokens:
            words += f", and it needs {self.least_tokens} with its thinking"
        details = {**error.details, "affordable_tokens": str(tokens)}
        return TollbridgeError(error.code, f"{words}.", details=details, retry_after_s=error.retry_after_s)


def _affordable(error: TollbridgeError) -> int:
    """What was left, of a refusal for want of money or by a spend cap."""
    affordable = error.details.get("affordable_nano_usd", "")
    return int(affordable) if affordable.isdigit() else 0
