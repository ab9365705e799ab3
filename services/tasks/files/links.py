"""Signed links: whoever has one reads one file, for 45 to 60 minutes. Pure.

A signature is over the file's id and the link's end, by a secret that only tasks knows. It gives nothing else away, and
can't be made to last longer: what ends later than an hour from now is no link of ours.
"""

import hashlib
import hmac
from collections.abc import Sequence

LINK_S = 3600
STEP_S = 900
"""Links end on the quarter hour, so that an answer that is asked for again is the same one, and caches can know it."""
_SLACK_S = 60
"""Two processes' clocks may differ by so much."""


def sign(secret: bytes, file_id: str, *, now_s: float) -> tuple[int, str]:
    """A link's end, in seconds since the epoch, and its proof."""
    expires_s = (int(now_s) + LINK_S) // STEP_S * STEP_S
    return expires_s, _proof(secret, file_id, expires_s)


def is_good(secrets: Sequence[bytes], file_id: str, *, expires_s: int, signature: str, now_s: float) -> bool:
    """Whether a link was made here and is not over. Any of the secrets may have made it."""
    if not now_s < expires_s <= now_s + LINK_S + _SLACK_S or not signature.isascii():
        return False
    return any(hmac.compare_digest(_proof(secret, file_id, expires_s), signature) for secret in secrets)


def _proof(secret: bytes, file_id: str, expires_s: int) -> str:
    return hmac.new(secret, f"{file_id}\n{expires_s}".encode(), hashlib.sha256).hexdigest()
