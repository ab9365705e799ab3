"""API keys as text: made, checked and digested. Pure: no clock, no I/O.

A key is a prefix, 37 base62 characters drawn from 32 random bytes, and 6 base62 characters of CRC32 over both. The
checksum guards nothing; it lets typing errors and scanners' guesses be refused without asking the database. Prefixes
are free: the configured one only mints, so that a changed prefix ends no key.

What is stored is HMAC-SHA256 under a pepper that the database never sees. Peppers have versions, so that they can be
rotated: new keys use the newest, old keys keep theirs, and a look-up tries each.
"""

import dataclasses
import hashlib
import hmac
import zlib
from collections.abc import Mapping

from chassis.settings import versioned_secrets

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
SECRET_LENGTH = 37
CHECKSUM_LENGTH = 6
MAX_PREFIX_LENGTH = 32
SEED_BYTES = 32
SHOWN_OF_SECRET = 4
"""Characters of the secret that are kept in clear beside the prefix, so that people recognise a key: 24 of 220 bits."""

_TAIL = SECRET_LENGTH + CHECKSUM_LENGTH
_MIN_PEPPER_BYTES = 16
_BASE62 = frozenset(ALPHABET)


@dataclasses.dataclass(frozen=True, slots=True)
class Peppers:
    """The secrets under which keys are digested, by version."""

    by_version: Mapping[int, bytes] = dataclasses.field(repr=False)
    newest: int

    @classmethod
    def parse(cls, text: str) -> "Peppers":
        """Reads `1:<hex>,2:<hex>`, newest last. Raises ValueError."""
        found = versioned_secrets(text, what="pepper", least_bytes=_MIN_PEPPER_BYTES)
        return cls(found, newest=list(found)[-1])

    def digests(self, key: str) -> list[bytes]:
        """The digest of `key` under each pepper."""
        return [digest(key, pepper) for pepper in self.by_version.values()]


def mint(*, prefix: str, seed: bytes, pepper: bytes) -> str:
    """The key that `seed` (32 random bytes) stands for under `pepper`: always the same one.

    A repeated request can therefore be answered with the same key while its seed is kept, and nobody, holding the
    database and the pepper, can make the key again once the seed is gone.
    """
    if not is_prefix(prefix):
        raise ValueError("a key's prefix is at most 32 printable ASCII characters without blanks")
    stream = hmac.new(pepper, b"tollbridge.auth.mint\0" + seed, hashlib.sha512).digest()
    secret = _base62(int.from_bytes(stream, "big"), SECRET_LENGTH)
    return prefix + secret + _checksum(prefix + secret)


def is_prefix(prefix: str) -> bool:
    """Whether keys may begin so. A blank would not survive the header that a key travels in."""
    return prefix.isascii() and prefix.isprintable() and " " not in prefix and len(prefix) <= MAX_PREFIX_LENGTH


def is_well_formed(key: str) -> bool:
    """Whether `key` could be one of ours: its length, its letters and its checksum."""
    if not _TAIL <= len(key) <= _TAIL + MAX_PREFIX_LENGTH or not key.isascii():
        return False
    if not _BASE62.issuperset(key[-_TAIL:]):
        return False
    return hmac.compare_digest(_checksum(key[:-CHECKSUM_LENGTH]), key[-CHECKSUM_LENGTH:])


def digest(key: str, pepper: bytes) -> bytes:
    """What is stored of a key."""
    return hmac.digest(pepper, key.encode(), "sha256")


def shown_prefix(key: str) -> str:
    """The first characters of a well-formed key, enough to recognise it and too few to use it."""
    return key[: len(key) - _TAIL + SHOWN_OF_SECRET]


def _checksum(text: str) -> str:
    return _base62(zlib.crc32(text.encode()), CHECKSUM_LENGTH)


def _base62(number: int, length: int) -> str:
    """The lowest `length` base62 digits of `number`, most significant first."""
    digits = []
    for _ in range(length):
        number, digit = divmod(number, 62)
        digits.append(ALPHABET[digit])
    return "".join(reversed(digits))
