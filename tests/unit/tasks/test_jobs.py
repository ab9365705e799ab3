"""The state machine of jobs: whatever happens in whatever order, a job ends once and stays ended."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from services.tasks.jobs import (
    MAX_OUTAGE_S,
    MAX_PAUSE_S,
    IllegalMove,
    Move,
    Status,
    after,
    outage_s,
    pause_s,
    sources,
    wait_s,
)

moves = st.sampled_from(list(Move))


class JobMachine(RuleBasedStateMachine):
    """A job, and the ends it has had."""

    def __init__(self) -> None:
        super().__init__()
        self.status = Status.PENDING
        self.ends: list[Status] = []

    @rule(move=moves)
    def moved(self, move: Move) -> None:
        before = self.status
        try:
            self.status = after(before, move)
        except IllegalMove:
            assert before.value not in sources(move)
            return
        assert before.value in sources(move)
        if self.status.ended:
            self.ends.append(self.status)

    @precondition(lambda self: self.status.ended)
    @rule(move=moves)
    def nothing_follows_an_end(self, move: Move) -> None:
        with pytest.raises(IllegalMove):
            after(self.status, move)

    @invariant()
    def it_ends_at_most_once(self) -> None:
        assert len(self.ends) <= 1
        assert self.status.ended == bool(self.ends)


TestJobMachine = JobMachine.TestCase


@given(st.lists(moves, max_size=30))
def test_only_a_claimed_job_succeeds(path: list[Move]):
    """No way leads to success but through a claim."""
    status, claimed = Status.PENDING, False
    for move in path:
        try:
            status = after(status, move)
        except IllegalMove:
            continue
        claimed = claimed or move is Move.CLAIM
    assert claimed or status is not Status.SUCCEEDED


def test_every_move_starts_somewhere_and_no_move_starts_at_an_end():
    """So that SQL made from the table can't change what has ended."""
    for move in Move:
        assert sources(move)
        assert not any(Status(source).ended for source in sources(move))


@given(st.integers(0, 1000), st.floats(0, 1))
def test_pauses_are_bounded_and_never_shrink(strikes: int, chance: float):
    """A job is not tried in a tight loop and not forgotten either."""
    for growing, most in ((pause_s, MAX_PAUSE_S), (outage_s, MAX_OUTAGE_S)):
        pause = growing(strikes, chance=chance)
        assert 0.75 <= pause <= growing(strikes + 1, chance=chance) <= 1.25 * most


@given(st.none() | st.floats(0, 60), st.floats(0, 1))
def test_whoever_waits_for_room_is_spread_but_not_for_long(least_s: float | None, chance: float):
    """So that a crowd that waits for one account doesn't come at once, and who waits longest comes soon."""
    least = max(1.0, least_s or 0.0)
    assert least <= wait_s(least_s, chance=chance) <= 1.5 * least
