"""Signatures of receipts: Ed25519 over canonical JSON, checked by anybody who has the public keys. Pure.

What is signed is the document without its `signature`, as RFC 8785 writes it: UTF-8, keys sorted, no blanks, and here
no number but integers, since a float has several spellings. A public key is a JWK (RFC 8037), named by its RFC 7638
thumbprint, so that a name can't be given to another key.
"""

import base64
import binascii
import dataclasses
import hashlib
import json
from collections.abc import Mapping

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

ALGORITHM = "Ed25519"
FIELD = "signature"
SEED_BYTES = 32
_SIGNATURE_BYTES = 64


class NotSigned(Exception):
    """The document has no good signature of one of these keys; the message says why."""


class SigningKey:
    """A private key. Its seed is 32 random bytes."""

    def __init__(self, seed: bytes) -> None:
        self._private = Ed25519PrivateKey.from_private_bytes(seed)
        self.public = PublicKey(self._private.public_key().public_bytes_raw())

    @classmethod
    def from_hex(cls, text: str) -> "SigningKey":
        """Reads 64 hexadecimal digits. Raises ValueError, without the text in it."""
        try:
            seed = bytes.fromhex(text)
        except ValueError:
            seed = b""
        if len(seed) != SEED_BYTES:
            raise ValueError(f"a receipt key is {2 * SEED_BYTES} hexadecimal digits")
        return cls(seed)

    def signed(self, document: Mapping[str, object]) -> dict[str, object]:
        """The document with its signature."""
        value = base64.b64encode(self._private.sign(canonical(document))).decode()
        signature = {"algorithm": ALGORITHM, "key_id": self.public.id, "value": value}
        return {**document, FIELD: signature}


@dataclasses.dataclass(frozen=True, slots=True)
class PublicKey:
    """Who has this can check receipts. 32 bytes."""

    raw: bytes

    @property
    def id(self) -> str:
        """The thumbprint."""
        members = {"crv": ALGORITHM, "kty": "OKP", "x": _base64url(self.raw)}
        return _base64url(hashlib.sha256(canonical(members)).digest())


def keys_of(jwk_set: object) -> dict[str, PublicKey]:
    """The keys of a JWK set by their thumbprints; members of other kinds are passed over. Raises ValueError."""
    members = jwk_set.get("keys") if isinstance(jwk_set, dict) else None
    if not isinstance(members, list):
        raise ValueError("these are no receipt keys: there is no list `keys`")
    found = {}
    for member in members:
        text = member.get("x") if isinstance(member, dict) and member.get("crv") == ALGORITHM else None
        if not isinstance(text, str):
            continue
        raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        if len(raw) != SEED_BYTES:
            raise ValueError("a receipt key has a wrong length")
        key = PublicKey(raw)
        found[key.id] = key
    return found


def canonical(document: Mapping[str, object]) -> bytes:
    """The bytes that are signed."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def check(document: Mapping[str, object], keys: Mapping[str, PublicKey]) -> str:
    """The id of the key that signed the document. Raises NotSigned."""
    signature = document.get(FIELD)
    if not isinstance(signature, dict) or set(signature) != {"algorithm", "key_id", "value"}:
        raise NotSigned("there is no signature")
    if signature["algorithm"] != ALGORITHM:
        raise NotSigned(f"the signature is not by {ALGORITHM}")
    key = keys.get(str(signature["key_id"]))
    if key is None:
        raise NotSigned("the key that the signature names is not among the keys")
    unsigned = {name: value for name, value in document.items() if name != FIELD}
    try:
        Ed25519PublicKey.from_public_bytes(key.raw).verify(_signature(signature["value"]), canonical(unsigned))
    except InvalidSignature:
        raise NotSigned("the signature is another document's: something was changed") from None
    except UnicodeEncodeError:
        raise NotSigned("the document has characters that no receipt has") from None
    return key.id


def _signature(text: object) -> bytes:
    try:
        value = base64.b64decode(text, validate=True) if isinstance(text, str) else b""
    except (binascii.Error, ValueError):
        value = b""
    # Spare bits of the last digit are ignored by the decoder: a changed digit must not go unseen.
    if len(value) != _SIGNATURE_BYTES or base64.b64encode(value).decode() != text:
        raise NotSigned("the signature is malformed")
    return value


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
