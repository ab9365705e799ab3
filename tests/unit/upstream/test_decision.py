"""Router's decisions become routes, and nothing of them is lost or believed that does not fit."""

import dataclasses

import pytest

from chassis.errors import Code, TollbridgeError
from pricing.prices import PriceVersion, Rates
from tollbridge.router.v1 import router_pb2 as pb
from upstream import decision
from upstream.attempt import Tried
from upstream.outcome import Outcome

RATES = Rates(**{field.name: number for number, field in enumerate(dataclasses.fields(Rates), start=1)})
PRICE = PriceVersion(rates=RATES, cost=Rates(input=7), markup_ppm=1_300_000, cost_reported=True)


def wire_price() -> pb.PriceVersion:
    """PRICE as router sends it."""
    return pb.PriceVersion(
        id=PRICE.id,
        rates=pb.Rates(**dataclasses.asdict(PRICE.rates)),
        cost=pb.Rates(**dataclasses.asdict(PRICE.cost)),
        markup_ppm=PRICE.markup_ppm,
        cost_reported=PRICE.cost_reported,
    )


def wire_decision(**changed: str) -> pb.DecideResponse:
    """A decision whose every field says something."""
    return pb.DecideResponse(
        **{
            "attempt_id": "a",
            "model": "public",
            "provider_id": "p",
            "provider_account_id": "p1",
            "protocol": "anthropic",
            "base_url": "http://127.0.0.1:9",
            "credential": "canary",
            "provider_model": "theirs",
            "max_tokens_field": "max_completion_tokens",
            "timeouts": pb.Timeouts(connect_s=1, first_byte_s=2, idle_s=3, total_s=4),
            "on_disconnect": "absorb",
            "drain_s": 5,
            "drain_at_once": 6,
            "bounds": pb.ModelBounds(context=1, max_output=2, template_tokens=3, max_part_tokens=4, hidden_output=5),
            "may_retry": True,
            "without_stream_options": True,
            **changed,
        }
    )


def test_every_field_of_a_route_comes_from_the_decision() -> None:
    """A decision in which nothing is left out makes a route in which nothing is left at its default."""
    made = decision.route(wire_decision(), price=decision.price(wire_price()))
    assert made.price == PRICE
    for field in dataclasses.fields(made):
        assert getattr(made, field.name) != field.default, field.name
    assert dataclasses.astuple(made.bounds) == (1, 2, 3, 4, 5)


def test_a_price_that_is_not_what_its_name_says_is_refused() -> None:
    """It would be a price that billing does not know, found out only after the provider was paid."""
    altered = wire_price()
    altered.rates.output += 1
    with pytest.raises(TollbridgeError) as caught:
        decision.price(altered)
    assert caught.value.code is Code.INTERNAL


@pytest.mark.parametrize(
    "changed", [{"protocol": "telepathy"}, {"on_disconnect": "shrug"}], ids=["protocol", "leaving"]
)
def test_a_decision_that_can_not_be_followed_is_an_error(changed: dict[str, str]) -> None:
    """A newer router's words are refused in one way, before a provider is called."""
    with pytest.raises(TollbridgeError) as caught:
        decision.route(wire_decision(**changed), price=PRICE)
    assert caught.value.code is Code.INTERNAL


def test_every_outcome_has_its_own_word() -> None:
    """Router is told each way in which an attempt can end, apart from the others."""
    told = {decision.outcome(Tried(attempt_id="a", provider_account_id="p1", outcome=each)).outcome for each in Outcome}
    assert len(told) == len(Outcome)
    assert pb.OUTCOME_UNSPECIFIED not in told
