"""What the webhooks of a customer's tasks are signed with. Pure.

A secret follows from the operator's key, the customer and a number that grows when the customer asks for another one:
the database holds no secret. It stays what it is for as long as the key that it was made under is kept.
"""

import base64
import dataclasses
import hashlib
import hmac
from collections.abc import Mapping

from chassis.errors import Code, TollbridgeError
from chassis.settings import versioned_secrets
from upstream.webhooks import SECRET_BYTES, SECRET_PREFIX

LEAST_KEY_BYTES = 32


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SecretName:
    """Which secret: the version of the operator's key, and the number of the customer's secret."""

    key_version: int
    number: int


class WebhookSecrets:
    """The operator's keys, by version; new secrets are made under the newest."""

    def __init__(self, keys: Mapping[int, bytes]) -> None:
        self._keys = dict(keys)
        self.newest = list(keys)[-1] if keys else 0
        """0 without any key: then no webhook can be sent."""

    @classmethod
    def parse(cls, text: str) -> "WebhookSecrets":
        """Reads `1:<hex>,2:<hex>`, the newest last, at least 64 digits each; an empty text is no key. ValueError."""
        return cls(versioned_secrets(text, what="key", least_bytes=LEAST_KEY_BYTES) if text else {})

    def of(self, customer_id: str, name: SecretName) -> str:
        """The secret, as Standard Webhooks writes it. Raises UNAVAILABLE while its key is missing here."""
        key = self._keys.get(name.key_version)
        if key is None:
            raise TollbridgeError(Code.UNAVAILABLE, "The key of this webhook secret is missing.", retry_after_s=5)
        told = f"tollbridge task webhooks of {customer_id} number {name.number}".encode()
        return SECRET_PREFIX + base64.b64encode(hmac.digest(key, told, hashlib.sha256)[:SECRET_BYTES]).decode()
