"""`receipt verify`: checks a signed receipt with public keys and arithmetic only; the gateway is not asked about it."""

import json
import sys
from pathlib import Path

from cli.running import NotRunning, find_instance

GOOD, BAD, NOT_CHECKED = 0, 1, 2
KEYS_PATH = "/.well-known/tollbridge/receipt-keys.json"
TIMEOUT_S = 10.0
MAX_BYTES = 16 << 20


class Unreadable(Exception):
    """The receipt or the keys can't be read; the message says why."""


def verify(file: str, *, keys: str, data_dir: Path | None) -> int:
    """Prints what is wrong with the receipt; returns 0 for a good one, 1 for a bad one, 2 when it can't be checked.

    `file` may be `-`. `keys` is a file or URL of a JWK set; empty is the keys of the running instance.
    """
    from services.billing.receipts import receipt_check, signatures

    try:
        known = signatures.keys_of(json.loads(_keys_text(keys, data_dir)))
        text = sys.stdin.buffer.read(MAX_BYTES) if file == "-" else Path(file).read_bytes()
    except (Unreadable, OSError, ValueError) as error:
        print(f"not checked: {error}", file=sys.stderr)
        return NOT_CHECKED
    try:
        receipt = receipt_check.parse(text)
    except (ValueError, RecursionError) as error:
        print(f"this is no receipt: {error}", file=sys.stderr)
        return BAD
    problems = receipt_check.problems(receipt, known)
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems:
        return BAD
    print(f"{receipt['id']}: good. {receipt_check.summary(receipt)}")
    return GOOD


def _keys_text(keys: str, data_dir: Path | None) -> bytes:
    if not keys:
        try:
            keys = str(find_instance(data_dir).content["base_url"]).rstrip("/") + KEYS_PATH
        except NotRunning as error:
            raise Unreadable(f"no --keys were given, and {error}") from None
    if keys.startswith(("http://", "https://")):
        return _fetched(keys)
    return Path(keys).read_bytes()


def _fetched(url: str) -> bytes:
    import httpx

    try:
        return httpx.get(url, timeout=TIMEOUT_S).raise_for_status().content
    except httpx.HTTPError as error:
        raise Unreadable(f"the keys at {url} can't be read: {error}") from error
