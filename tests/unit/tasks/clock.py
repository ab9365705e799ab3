"""A tasks process's clock, in a test's hand."""

from services.tasks import jobs
from services.tasks.work.listening import BROKEN_S, Listening


class Clock:
    """Seconds that pass when told to, or so many with each look."""

    def __init__(self) -> None:
        self.now_s, self.step_s = 1000.0, 0.0

    def __call__(self) -> float:
        self.now_s += self.step_s
        return self.now_s


def listening_for_long(clock: Clock) -> Listening:
    """As in a process that has looked every few seconds for longer than a lease."""
    listening = Listening(clock=clock)
    while listening.goes_on() < 2 * jobs.LEASE_S:
        clock.now_s += BROKEN_S / 2
    return listening
