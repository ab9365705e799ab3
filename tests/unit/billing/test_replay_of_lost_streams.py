"""What a replay says when the streams don't reach back to the beginning of the ledger."""

from uuid import UUID, uuid4

import pytest

from chassis.ids import uuid7
from services.billing.proof.replay import Live, Movement, Streams, compare

DAY_US = 86_400_000_000


def _live(made_at_us: dict[UUID, int]) -> Live:
    """A ledger with these transfers, and a balance that only all of them make."""
    moved = dict.fromkeys(made_at_us, _movement())
    balance = {"c": (len(moved), len(moved))}
    return Live(moved=moved, made_at_us=made_at_us, leaving=set(), balances=balance, charges={}, dead=set())


def _movement() -> Movement:
    return "promotions", "credits:c", 1, "welcome", "welcome:c", 0


@pytest.mark.parametrize("again", [0, 1])
def test_a_stream_that_the_bus_lost_is_no_difference(again: int):
    """Made anew, it has what left since; what left before is on no stream any more, and in the ledger still."""
    old, young = uuid7(), uuid7()
    live = _live({old: DAY_US, young: 3 * DAY_US}) if again else _live({old: DAY_US})
    streams = Streams(made_us=2 * DAY_US, first_us=3 * DAY_US * again, moved={young: _movement()} if again else {})
    report = compare(live, streams, live)
    assert (report.examples, report.complete, report.transfers) == ([], False, again)


def test_what_is_younger_than_the_stream_must_be_on_it():
    """Lost or not: what left later is compared."""
    old, there, lacking = uuid7(), uuid7(), uuid7()
    live = _live({old: DAY_US, there: 3 * DAY_US, lacking: 4 * DAY_US})
    streams = Streams(made_us=2 * DAY_US, first_us=3 * DAY_US, moved={there: _movement()})
    assert compare(live, streams, live).examples == [f"transfer {lacking} (welcome:c) is not on LEDGER"]


def test_a_stream_that_emptied_by_age_says_nothing():
    """An instance that nobody used for a month: there is nothing to compare with."""
    live = _live({uuid4(): 2 * DAY_US})
    report = compare(live, Streams(complete=False, made_us=DAY_US), live)
    assert (report.clean, report.complete) == (True, False)
