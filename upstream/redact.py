"""Takes out of a provider's words what must not travel on: keys, tokens, addresses with a password."""

import re

from upstream.outcome import MAX_EXCERPT_CHARACTERS

# Words are no secrets ("basic understanding", "key_required"): a digit, a capital, a star, a dot inside or a long run.
_RANDOM = r"(?=[\w*.~+/=-]*(?:[0-9A-Z*]|\w\.\w|[a-z]{16}))"
_SECRETS = re.compile(
    rf"\b(?i:bearer|basic)\s+{_RANDOM}[\w.~+/=-]{{8,}}"
    rf"|\b(?i:sk|pk|rk|key|gsk|xai|pplx|tb|tba|dsk|or|hf|org|AIza)[-_]{_RANDOM}[\w*.-]{{6,}}"
    r"|\bAIza[\w-]{10,}"
    r"|\b(?:edge|auth|router|billing|tasks|cli|admin):(?=[\w+/=-]*\d)[\w+/=-]{16,}"
    r"|\b\w+://[^\s/@]+:[^\s/@]+@"
    r"|\b(?=[A-Za-z+/_-]*[0-9])[A-Za-z0-9+/_-]{40,}={0,2}"
)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]+")


def without_secrets(text: str) -> str:
    """`text` on the safe side: bounded, printable, anything that looks like a credential replaced by `[redacted]`."""
    bounded = _CONTROL.sub(" ", text[: 4 * MAX_EXCERPT_CHARACTERS])
    return _SECRETS.sub("[redacted]", bounded)[:MAX_EXCERPT_CHARACTERS].strip()
