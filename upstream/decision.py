"""Router's decision as a `Route`, and an attempt's end as router's message: what every caller of providers converts."""

import dataclasses
from collections.abc import Iterable

from chassis.errors import Code, TollbridgeError
from pricing.prices import PriceVersion, Rates
from pricing.variants import chosen
from tollbridge.router.v1 import router_pb2 as pb
from upstream.attempt import Tried
from upstream.client import Timeouts
from upstream.outcome import Outcome
from upstream.route import Bounds, OnDisconnect, Route, WireProtocol

_OUTCOMES = {
    Outcome.SUCCESS: pb.OUTCOME_SUCCESS,
    Outcome.REJECTED: pb.OUTCOME_REJECTED,
    Outcome.RATE_LIMITED: pb.OUTCOME_RATE_LIMITED,
    Outcome.CREDENTIAL_REFUSED: pb.OUTCOME_CREDENTIAL_REFUSED,
    Outcome.SERVER_ERROR: pb.OUTCOME_SERVER_ERROR,
    Outcome.MODEL_UNKNOWN: pb.OUTCOME_MODEL_UNKNOWN,
    Outcome.NOT_OFFERED: pb.OUTCOME_NOT_OFFERED,
    Outcome.TIMED_OUT: pb.OUTCOME_TIMED_OUT,
    Outcome.UNREACHABLE: pb.OUTCOME_UNREACHABLE,
    Outcome.CANCELLED: pb.OUTCOME_CANCELLED,
}


def route(wire: pb.DecideResponse, *, price: PriceVersion) -> Route:
    """The attempt's route; `price` is the decision's. Raises INTERNAL for a decision that this code can't follow."""
    try:
        protocol = WireProtocol(wire.protocol)
        on_disconnect = OnDisconnect(wire.on_disconnect or OnDisconnect.DRAIN)
    except ValueError as error:
        raise TollbridgeError(Code.INTERNAL, "Router decided on something that is not known here.") from error
    return Route(
        attempt_id=wire.attempt_id,
        model=wire.model,
        provider_id=wire.provider_id,
        provider_account_id=wire.provider_account_id,
        protocol=protocol,
        base_url=wire.base_url,
        credential=wire.credential,
        provider_model=wire.provider_model,
        max_tokens_field=wire.max_tokens_field or "max_tokens",
        timeouts=Timeouts(
            connect_s=wire.timeouts.connect_s,
            first_byte_s=wire.timeouts.first_byte_s,
            idle_s=wire.timeouts.idle_s,
            total_s=wire.timeouts.total_s,
        ),
        price=price,
        bounds=bounds(wire.bounds),
        on_disconnect=on_disconnect,
        drain_s=wire.drain_s,
        drain_at_once=wire.drain_at_once,
        may_retry=wire.may_retry,
        without_stream_options=wire.without_stream_options,
    )


def bounds(wire: pb.ModelBounds) -> Bounds:
    """What bounds a model's worst case."""
    return Bounds(**{field.name: getattr(wire, field.name) for field in dataclasses.fields(Bounds)})


def price(wire: pb.PriceVersion) -> PriceVersion:
    """A price version. Raises INTERNAL when its id is not its hash: billing would not know the price."""
    version = PriceVersion(
        rates=_rates(wire.rates), cost=_rates(wire.cost), markup_ppm=wire.markup_ppm, cost_reported=wire.cost_reported
    )
    if version.id != wire.id:
        raise TollbridgeError(Code.INTERNAL, "A price version's content does not match its name.")
    return version


def price_of(
    wire: pb.PriceVersion, variants: Iterable[pb.PriceVariant], *, size: str | None = None, quality: str | None = None
) -> PriceVersion:
    """The price of that size and quality, or of whatever it is. Raises INTERNAL as `price` does."""
    found = chosen({each.name: each.price for each in variants}, size=size, quality=quality)
    return price(wire if found is None else found)


def outcome(tried: Tried) -> pb.AttemptOutcome:
    """How an attempt ended."""
    return pb.AttemptOutcome(
        attempt_id=tried.attempt_id,
        provider_account_id=tried.provider_account_id,
        outcome=_OUTCOMES[tried.outcome],
        retry_after_s=tried.retry_after_s,
        first_byte_s=tried.first_byte_s,
    )


def _rates(wire: pb.Rates) -> Rates:
    return Rates(**{field.name: getattr(wire, field.name) for field in dataclasses.fields(Rates)})
