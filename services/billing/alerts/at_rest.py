"""Customers' secrets as the database keeps them: by AES-256-GCM under a key that the database never sees.

Keys have versions, so that they rotate: what is written uses the newest, what is read names its own. A secret is
bound to its owner, so that one can't be put in another's place. Without a key secrets are kept as they are.
"""

import base64
import binascii
import os
from collections.abc import Mapping

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from chassis.settings import versioned_secrets

KEY_BYTES = 32
_NONCE_BYTES = 12


class Unreadable(Exception):
    """A stored secret that can't be had: its key is missing here, or it was altered. The message quotes nothing."""


class AtRestKeys:
    """The keys, by version; the newest one encrypts."""

    def __init__(self, keys: Mapping[int, bytes]) -> None:
        self._ciphers = {version: AESGCM(key) for version, key in keys.items()}
        self._newest = list(keys)[-1] if keys else 0

    @classmethod
    def parse(cls, text: str) -> "AtRestKeys":
        """Reads `1:<hex>,2:<hex>`, the newest last, 64 digits each; an empty text is no key. Raises ValueError."""
        keys = versioned_secrets(text, what="key", least_bytes=KEY_BYTES) if text else {}
        for version, key in keys.items():
            if len(key) > KEY_BYTES:
                raise ValueError(f"key {version} is longer than {KEY_BYTES} bytes")
        return cls(keys)

    @property
    def prefix(self) -> str:
        """What everything begins with that is kept under the newest key; empty without one."""
        return f"{self._newest}:" if self._newest else ""

    def encrypted(self, secret: str, *, owner: str) -> str:
        """What is stored of it."""
        if not self._newest:
            return secret
        nonce = os.urandom(_NONCE_BYTES)
        sealed = self._ciphers[self._newest].encrypt(nonce, secret.encode(), owner.encode())
        return self.prefix + base64.b64encode(nonce + sealed).decode()

    def decrypted(self, stored: str, *, owner: str) -> str:
        """The secret again, also one from before there was a key. Raises Unreadable."""
        version, is_sealed, text = stored.partition(":")
        if not is_sealed:
            return stored
        cipher = self._ciphers.get(int(version)) if version.isascii() and version.isdigit() else None
        if cipher is None:
            raise Unreadable("its secret was kept under a key that is not among TOLLBRIDGE_AT_REST_KEYS")
        try:
            raw = base64.b64decode(text, validate=True)
            return cipher.decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], owner.encode()).decode()
        except (InvalidTag, ValueError, binascii.Error):
            raise Unreadable("its secret was altered in the database") from None
