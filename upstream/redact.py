"""Takes out of a provider's words what must not travel on: keys, tokens, addresses with a password."""

import re

from upstream.outcome import MAX_EXCERPT_CHARACTERS

_SECRETS = re.compile(
    r"(?i)\b(?:bearer|basic)\s+[\w.~+/=-]{8,}"
    r"|\b(?:sk|pk|rk|key|gsk|xai|pplx|tb|dsk|or|hf|AIza)[-_][\w*.-]{6,}"
    r"|\bAIza[\w-]{10,}"
    r"|\borg-[\w-]{8,}"
    r"|\b\w+://[^\s/@]+:[^\s/@]+@"
    r"|\b[A-Za-z0-9+/_-]{40,}={0,2}"
)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]+")


def without_secrets(text: str) -> str:
    """`text` on the safe side: bounded, printable, anything that looks like a credential replaced by `[redacted]`."""
    bounded = _CONTROL.sub(" ", text[: 4 * MAX_EXCERPT_CHARACTERS])
    return _SECRETS.sub("[redacted]", bounded)[:MAX_EXCERPT_CHARACTERS].strip()
