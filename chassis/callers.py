"""Who calls, and how they prove it: by a secret, by a certificate, or by both where both are asked for.

Of a secret only its SHA-256 is needed, so that whoever reads a process's environment can't be everybody else.
"""

import hmac
from collections.abc import Mapping
from hashlib import sha256

from chassis.errors import Code, TollbridgeError
from chassis.settings import SettingsError

HASHED = "sha256:"


def parse_tokens(text: str, *, certified: bool = False) -> dict[str, str]:
    """Reads "edge:<secret>,cli:sha256:<hex>"; a name may come twice, while its secret changes. Empty: nobody may call.

    `certified`: callers show certificates, and a name alone will do. Raises SettingsError, which shows no secret.
    """
    tokens: dict[str, str] = {}
    for entry in filter(None, (part.strip() for part in text.split(","))):
        name, _, secret = entry.partition(":")
        if not name or not (secret or certified):
            raise SettingsError(["service tokens must be <name>:<secret>, separated by commas"])
        tokens[name] = f"{tokens[name]},{secret}" if name in tokens else secret
    return tokens


class Callers:
    """Those of `tokens`: by name the secrets that count, in clear or as `sha256:<hex>`, or none."""

    def __init__(self, tokens: Mapping[str, str]) -> None:
        self._digests = {name: [_digest(each) for each in text.split(",") if each] for name, text in tokens.items()}

    def name(self, metadata: Mapping[str, str], certified: frozenset[str] | None) -> str:
        """Who it is; `certified` are the names of the certificate shown, None without TLS. Raises PERMISSION_DENIED."""
        name, _, secret = metadata.get("authorization", "").removeprefix("Bearer ").partition(":")
        wanted, shown = self._digests.get(name), sha256(secret.encode()).hexdigest().encode()
        by_secret = any(hmac.compare_digest(shown, each) for each in wanted or ())
        if wanted is None or not (by_secret or (certified is not None and not wanted)):
            raise TollbridgeError(Code.PERMISSION_DENIED, "unknown caller or wrong secret")
        if certified is not None and name not in certified:
            raise TollbridgeError(Code.PERMISSION_DENIED, f"the certificate shown is not {name}'s")
        return name


def _digest(secret: str) -> bytes:
    hashed = secret.removeprefix(HASHED) if secret.startswith(HASHED) else sha256(secret.encode()).hexdigest()
    return hashed.lower().encode()
