"""What a request would cost, before it is sent: at most, and likely. Nothing is held, no slot is taken, nothing runs.

*Most* is what the request itself would hold: its worst case, on the dearest route that a failure could lead it to. So
`X-Max-Cost: <most>` never refuses it. *Likely* is a guess and says so in the documentation: the counted input, priced
without any cache, and an answer of TYPICAL_OUTPUT tokens (besides a thinking budget), or of `max_tokens` if that is
less.
"""

import asyncio
import dataclasses

from chassis.errors import Code, TollbridgeError
from chassis.pipe import PipeClient
from pricing.charge import ChargeOutOfRange, charge_nano_usd, worst_case_nano_usd
from pricing.prices import PriceVersion
from pricing.tokens import Tokens, Units
from services.edge.bodies.request_body import aside
from services.edge.paid.admission import Terms
from services.edge.paid.operation import Operation
from services.edge.paid.paid_request import PaidRequest
from tollbridge.router.v1 import router_pb2
from upstream import decision
from upstream.usage import count_tokens

TIMEOUT_S = 0.9
TYPICAL_OUTPUT = 500


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """What a request would cost, in nano-USD. `max_tokens` is the most output per choice, None where there is none."""

    model: str
    most_nano_usd: int
    likely_nano_usd: int
    price_version: str
    max_tokens: int | None


class Quotes:
    """Makes quotes. Keeps nothing."""

    def __init__(self, *, router: PipeClient) -> None:
        self._router = router

    async def paid(self, request: PaidRequest, operation: Operation) -> Quote:
        """Raises MODEL_NOT_FOUND, PROVIDER_NOT_CONFIGURED, INVALID_REQUEST as the request itself would."""
        asked = await self._ask(request.model, operation=operation.category)
        bounds = decision.bounds(asked.bounds)
        terms = [Terms(request, price=decision.price(offer.price), bounds=bounds) for offer in asked.offers]
        price, first = decision.price(asked.offers[0].price), terms[0]
        await aside(request.body, operation.refuse_costly, request.fields, rates=price.rates)
        prompt = await asyncio.to_thread(request.prompt_tokens, asked.offers[0].provider_model)
        sound = request.likely_sound_tokens
        text = 0 if sound else request.choices * min(first.wanted_tokens, TYPICAL_OUTPUT + request.thinking_budget)
        tokens = Tokens(
            input=min(prompt + request.usual_piece_tokens(bounds), request.input_tokens(bounds)),
            output=text,
            audio_output=sound,
        )
        return _quote(
            asked,
            most_nano_usd=max(each.worst_nano_usd(first.wanted_tokens) for each in terms),
            likely=(price, tokens, request.likely_units),
            max_tokens=first.wanted_tokens if request.choices else None,
        )

    async def task(
        self,
        *,
        operation: str,
        model: str,
        prompt: str,
        units: Units,
        outputs: int,
        body_bytes: int,
        size: str | None,
        quality: str | None = None,
    ) -> Quote:
        """Of a long job. Raises MODEL_NOT_FOUND, PROVIDER_NOT_CONFIGURED, INVALID_REQUEST as the job itself would."""
        asked = await self._ask(model, operation=operation)
        bounds, first = decision.bounds(asked.bounds), asked.offers[0]
        price = decision.price_of(first.price, first.variants, size=size, quality=quality)
        output = outputs * bounds.max_output
        try:
            most = worst_case_nano_usd(
                price,
                input_tokens=body_bytes + bounds.template_tokens,
                output_tokens=output + bounds.hidden_output,
                units=units,
            )
        except ChargeOutOfRange as error:
            raise TollbridgeError(Code.INVALID_REQUEST, "This task would cost more than any may.") from error
        counted = await asyncio.to_thread(count_tokens, prompt, first.provider_model)
        tokens = Tokens(input=min(counted, body_bytes), output=output)
        return _quote(asked, most_nano_usd=most, likely=(price, tokens, units), max_tokens=None)

    async def _ask(self, model: str, *, operation: str) -> router_pb2.QuoteResponse:
        return await self._router.call(
            "Quote",
            router_pb2.QuoteRequest(model=model, operation=operation),
            router_pb2.QuoteResponse,
            timeout_s=TIMEOUT_S,
        )


def _quote(
    asked: router_pb2.QuoteResponse,
    *,
    most_nano_usd: int,
    likely: tuple[PriceVersion, Tokens, Units],
    max_tokens: int | None,
) -> Quote:
    price, tokens, units = likely
    return Quote(
        model=asked.model,
        most_nano_usd=most_nano_usd,
        likely_nano_usd=min(most_nano_usd, charge_nano_usd(tokens, units, price)),
        price_version=price.id,
        max_tokens=max_tokens,
    )
