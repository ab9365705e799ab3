"""How many attempts may be retries, so that a failing pool doesn't get a multiple of its load.

A retry at an account that is well is always allowed: it answers, and costs nobody anything. At one that fails too it is
allowed while retries are a small share of what this replica decided lately.
"""

from collections import deque

SHARE = 0.2
LEAST = 10
"""Retries in the window that are always allowed: few requests would otherwise have none."""
WINDOW_S = 10


class RetryBudget:
    """Counts by the second. The clock (monotonic seconds) is handed in."""

    def __init__(self) -> None:
        self._seconds: deque[tuple[int, list[int]]] = deque()
        self._attempts = self._retries = 0

    def has_room(self, *, now_s: float) -> bool:
        """Whether one more retry is within the share."""
        self._drop_old(now_s)
        return self._retries < max(LEAST, SHARE * self._attempts)

    def count(self, *, now_s: float, is_retry: bool) -> None:
        """An attempt was decided on."""
        self._drop_old(now_s)
        if not self._seconds or self._seconds[-1][0] != int(now_s):
            self._seconds.append((int(now_s), [0, 0]))
        counts = self._seconds[-1][1]
        counts[0] += 1
        counts[1] += is_retry
        self._attempts += 1
        self._retries += is_retry

    def _drop_old(self, now_s: float) -> None:
        while self._seconds and self._seconds[0][0] <= now_s - WINDOW_S:
            _, (attempts, retries) = self._seconds.popleft()
            self._attempts -= attempts
            self._retries -= retries
