"""A stretch of listening whose clock is the database's, and runs ahead of it as told."""

import time

from services.billing.listening import BROKEN_S, Listening


class Hearing(Listening):
    """As `Listening`; `ahead_s` more seconds have passed than the database knows of."""

    def __init__(self) -> None:
        super().__init__()
        self.ahead_s = 0.0

    def goes_on(self, now_us: int) -> float:
        return super().goes_on(now_us + int(self.ahead_s * 1_000_000))

    def hear(self, seconds: float) -> None:
        """So many seconds pass in which the database answered as often as it should."""
        until_s = self.ahead_s + seconds
        while self.ahead_s < until_s:
            self.goes_on(time.time_ns() // 1000)
            self.ahead_s = min(until_s, self.ahead_s + BROKEN_S / 2)
        self.goes_on(time.time_ns() // 1000)
