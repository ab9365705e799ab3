"""How long an attempt waits for its first byte: its route's time, or less where others are well.

Where another account stands ready, part of the time is left for that one: whoever must be served there has waited for
less than a single attempt may take. The probe of an account that hung gets less still, and more each time. Nothing is
given up within half as much again as answers there lately took, nor where the whole work would be paid for twice.
"""

from services.router.registry import Timeouts

SHARE = 0.75
"""Of the route's time, where another account is well."""
USUAL_TIMES = 1.5
KEPT = 0.98
"""Of the longest time to a first byte, at each answer: the last hundred or so say what is usual."""
LEAST_S = 0.5
HASTY = frozenset({"chat", "embedding"})
"""What is answered at once, or little is lost of. Pictures, sounds and videos are made and paid for as a whole."""


class Patience:
    """How long first bytes lately took on each account, and what follows from it. In memory, per replica."""

    def __init__(self) -> None:
        self._usual_s: dict[str, float] = {}

    def answered(self, account_id: str, *, first_byte_s: float) -> None:
        """An attempt there had its first byte after so long."""
        self._usual_s[account_id] = max(first_byte_s, KEPT * self._usual_s.get(account_id, 0.0))

    def first_byte_s(self, account_id: str, timeouts: Timeouts, *, category: str, spare: bool, share: float) -> float:
        """Seconds until the attempt is given up; `spare` when another account is well, `share` what a probe gets."""
        if not spare or category not in HASTY:
            return timeouts.first_byte_s
        usual_s = USUAL_TIMES * self._usual_s.get(account_id, 0.0)
        return min(timeouts.first_byte_s, max(LEAST_S * SHARE, min(SHARE, share) * timeouts.first_byte_s, usual_s))

    def forget_all_but(self, account_ids: frozenset[str]) -> None:
        """Drops accounts that have left the config."""
        for gone in self._usual_s.keys() - account_ids:
            del self._usual_s[gone]
