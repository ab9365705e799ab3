"""Since when this process has heard what spenders say: their silence means something only after that long.

Leases end and claims are taken over by silence. While we stood still, or PostgreSQL did, nobody could speak, and their
requests ran on. So time is taken from the clock by which silence is judged, the database's, whenever it answers: two
answers far apart tell of a stop, whosever it was, also of a whole machine's pause or sleep and of a clock that was set.
Who stood still beside a replica that ran on waits in vain, and that one goes on meanwhile.

Limits: stops of less than BROKEN_S one right after the other are none, and a database that answers what we read but
refuses what spenders say is taken for a well one. An answer that was late because its transaction waited, or a look
that took long, passes for a stop: then silence is judged half a minute later.
"""

BROKEN_S = 10.0
"""Between two answers; somebody asks once a second. With it a word that is due every 10 s is still well within 40."""


class Listening:
    """The stretch without a gap that lasts until now; one for all who judge in this process. A start is a gap."""

    def __init__(self) -> None:
        self._since_us = self._last_us = 0

    def goes_on(self, now_us: int) -> float:
        """The database has answered, and it was so late there; returns the seconds that nothing was missed for."""
        if abs(now_us - self._last_us) > BROKEN_S * 1_000_000:
            self._since_us = self._last_us = now_us
        self._last_us = max(self._last_us, now_us)  # answers overtake each other
        return (now_us - self._since_us) / 1_000_000

    def broke(self) -> None:
        """There was trouble until now: the next answer begins anew."""
        self._last_us = 0
