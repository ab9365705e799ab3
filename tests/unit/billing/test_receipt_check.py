"""A receipt is believed only when nothing in it was changed and its own numbers make its charge."""

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest

from pricing.prices import PriceVersion, Rates
from services.billing.receipts import receipt_check
from services.billing.receipts.signatures import canonical, keys_of
from tests.unit.billing.papers import KEY, KEYS, OTHER_KEY, PRICE, document, usage
from tollbridge.usage.v1 import usage_pb2

REPORTED = PriceVersion(rates=PRICE.rates, cost=Rates(), markup_ppm=1_250_000, cost_reported=True)
NOT_STORED = "0" * 64


def _problems(receipt: dict[str, Any]) -> list[str]:
    """As a reader of its JSON finds it."""
    return receipt_check.problems(receipt_check.parse(json.dumps(receipt)), KEYS)


@pytest.mark.parametrize(
    "made",
    [
        document(),
        document(overage=1_000),
        document(refunded=500),
        document(refunded=usage().charge_nano_usd),
        document(usage(REPORTED, provider_reported_cost_nano_usd=12_345), price=REPORTED),
        document(usage(REPORTED, provider_reported_cost_nano_usd=10**12), price=REPORTED),
        document(usage(REPORTED), price=REPORTED),
        document(usage(kind=usage_pb2.USAGE_KIND_VOID, charge_nano_usd=0), price=None),
        document(usage(price_version=NOT_STORED, charge_nano_usd=7), price=None),
        document(usage(charge_nano_usd=7)),
    ],
    ids=[
        "plain",
        "overage",
        "part refunded",
        "all refunded",
        "by reported cost",
        "reported too high",
        "not reported",
        "void",
        "by an operator, without a price",
        "by an operator, against the price",
    ],
)
def test_every_kind_of_receipt_that_billing_makes_is_good(made: dict[str, Any]):
    """Charges by list and by reported cost, losses, refunds, voids, and what an operator decided."""
    assert _problems(KEY.signed(made)) == []


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield from _paths(part, (*path, key))


SIGNED = KEY.signed(document(overage=3, refunded=5))


@pytest.mark.parametrize("path", list(_paths(SIGNED)), ids=lambda path: ".".join(map(str, path)))
def test_any_field_that_was_changed_or_taken_away_is_found(path: tuple[Any, ...]):
    """To the last digit, in the signature too."""
    for change in (_other, None):
        receipt = copy.deepcopy(SIGNED)
        *outer, last = path
        place: Any = receipt
        for step in outer:
            place = place[step]
        if change is None:
            del place[last]
        else:
            place[last] = change(place[last])
        assert _problems(receipt) != []


def _other(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, str):
        last = value[-1:]
        return value[:-1] + ("1" if last != "1" else "2")
    return {**value, "more": 1} if isinstance(value, dict) else [*value, 1] if isinstance(value, list) else "x"


def test_a_last_digit_of_the_signature_that_decodes_alike_is_found():
    """Base64 has spare bits; another spelling of the same bytes is a changed receipt."""
    receipt = copy.deepcopy(SIGNED)
    value = receipt["signature"]["value"]
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    digit = alphabet[alphabet.index(value[-3]) ^ 1]
    receipt["signature"]["value"] = value[:-3] + digit + "=="
    assert _problems(receipt) == ["the signature is malformed"]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("tokens", "output"), 322),
        (("price", "markup_ppm"), 1_300_001),
        (("price", "rates", "input"), "0.270000002"),
        (("price", "version"), NOT_STORED),
        (("charge",), "0.000000001"),
        (("refunded",), "0.000000001"),
        (("transfers", 0, "amount"), "0.000000001"),
        (("transfers", 0, "credit"), "promotions"),
        (("calculation", "charge"), "0.000000001"),
        (("calculation", "numerator"), "1"),
    ],
)
def test_numbers_that_do_not_make_the_charge_are_found_though_signed(path: tuple[Any, ...], value: Any):
    """The signature says who made the receipt; the arithmetic says whether it is right."""
    receipt = document(overage=3, refunded=5)
    place: Any = receipt
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    assert _problems(KEY.signed(receipt)) != []


def test_a_signature_of_another_key_or_none_is_found():
    """Keys come from outside the receipt."""
    assert _problems(OTHER_KEY.signed(document())) == ["the key that the signature names is not among the keys"]
    assert _problems({**document(), "signature": None}) == ["there is no signature"]
    assert _problems(document()) == ["there is no signature"]


@pytest.mark.parametrize("text", ['{"a": 1, "a": 2}', "[]", '{"a": 1.0}', '{"a": NaN}', "no json"])
def test_what_could_be_read_in_two_ways_is_no_receipt(text: str):
    """A name twice or a number with a fraction would let two readers see two receipts."""
    with pytest.raises(ValueError, match=r"."):
        receipt_check.parse(text)


def test_the_signed_bytes_are_sorted_compact_utf_8():
    """As docs/receipts.md describes them to those who check with their own tools."""
    assert canonical({"b": [1, None, True], "a": {"d": "ä", "c": '"\n'}}) == (
        '{"a":{"c":"\\"\\n","d":"ä"},"b":[1,null,true]}'.encode()
    )


def test_a_key_set_is_read_by_the_thumbprint_of_each_key_and_not_by_its_name():
    """RFC 8037's example key has the thumbprint that RFC 8037 gives it."""
    x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"
    found = keys_of({"keys": [{"kty": "OKP", "crv": "Ed25519", "x": x, "kid": "forged"}, {"kty": "RSA"}]})
    assert list(found) == ["kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"]
    for wrong in ({}, {"keys": [{"crv": "Ed25519", "x": "AAAA"}]}, []):
        with pytest.raises(ValueError, match="receipt key"):
            keys_of(wrong)
