"""Checks a receipt without asking anybody: is it signed, is its price the one it names, does the price make the charge,
and do the transfers add up to it? Pure.
"""

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping

from pricing.charge import calculation
from pricing.prices import PriceVersion, Rates, nano_usd
from pricing.tokens import Tokens, Units
from services.billing.receipts import signatures
from services.billing.receipts.receipt_document import BY_LIST, BY_OPERATOR, BY_REPORTED_COST
from services.billing.receipts.signatures import NotSigned, PublicKey

Receipt = Mapping[str, object]


class _Wrong(Exception):
    """One thing that is not right; the message says what."""


def parse(text: str | bytes) -> dict[str, object]:
    """Reads a receipt. Raises ValueError for what is none: no JSON object, a name twice, a number with a fraction."""
    found = json.loads(text, object_pairs_hook=_once, parse_float=_no_fraction, parse_constant=_no_fraction)
    if not isinstance(found, dict):
        raise ValueError("a receipt is a JSON object")
    return found


def problems(receipt: Receipt, keys: Mapping[str, PublicKey]) -> list[str]:
    """Everything that is wrong with a receipt, in one line each; empty for a good one."""
    checks: Iterable[Callable[[], None]] = (
        lambda: _check_signature(receipt, keys),
        lambda: _check_price(receipt),
        lambda: _check_calculation(receipt),
        lambda: _check_charge(receipt),
        lambda: _check_transfers(receipt),
    )
    found = []
    for check in checks:
        try:
            check()
        except _Wrong as wrong:
            found.append(str(wrong))
        except (KeyError, TypeError, ValueError) as error:
            found.append(f"a field is missing or malformed: {error}")
    return found


def summary(receipt: Receipt) -> str:
    """What a good receipt says, in a sentence."""
    said = receipt["calculation"]
    if not isinstance(said, dict):
        return "Nothing was charged."
    if said["basis"] == BY_OPERATOR:
        return f"Charged {receipt['charge']} USD, as an operator decided; no price was computed."
    return f"Charged {receipt['charge']} USD: tokens × rates make {said['charge']} USD."


def _check_signature(receipt: Receipt, keys: Mapping[str, PublicKey]) -> None:
    try:
        signatures.check(receipt, keys)
    except NotSigned as error:
        raise _Wrong(str(error)) from None


def _check_price(receipt: Receipt) -> None:
    """A price version is the hash of its content."""
    price = _object(receipt, "price")
    if "rates" in price and _price_of(price).id != price["version"]:
        raise _Wrong("the rates are not those of the price version that the receipt names")


def _check_calculation(receipt: Receipt) -> None:
    if receipt["calculation"] is None:
        return
    said = _object(receipt, "calculation")
    if said["basis"] == BY_OPERATOR:
        return
    reported = _object(receipt, "provider")["reported_cost"]
    made = calculation(
        Tokens(**_integers(receipt, "tokens")),
        Units(**_integers(receipt, "units")),
        _price_of(_object(receipt, "price")),
        reported_cost_nano_usd=None if reported is None else nano_usd(str(reported)),
    )
    basis = BY_REPORTED_COST if made.as_reported else BY_LIST
    shown = (said["basis"], said["numerator"], said["denominator"], nano_usd(str(said["charge"])))
    if shown != (basis, str(made.numerator), str(made.denominator), made.charge_nano_usd):
        raise _Wrong(f"tokens and rates make {made.charge_nano_usd} nano-USD, which is not what the receipt says")


def _check_charge(receipt: Receipt) -> None:
    paid = _made(receipt) - _amount(receipt, "overage") - _amount(receipt, "refunded")
    if paid != _amount(receipt, "charge"):
        raise _Wrong(f"price less overage and refund is {paid} nano-USD, which is not the charge")


def _check_transfers(receipt: Receipt) -> None:
    """Of the charge one leg is the customer's and one our own loss; a refund goes back to the customer."""
    account = f"credits:{receipt['customer_id']}"
    taken = lost = refunded = 0
    for transfer in _list(receipt, "transfers"):
        amount, kind = nano_usd(str(transfer["amount"])), transfer["kind"]
        if amount <= 0:
            raise _Wrong("a transfer moves nothing")
        ends = (transfer["debit"], transfer["credit"])
        if (kind, *ends) == ("charge", account, "revenue"):
            taken += amount
        elif (kind, *ends) == ("charge", "overage_loss", "revenue"):
            lost += amount
        elif (kind, *ends) == ("refund", "revenue", account):
            refunded += amount
        else:
            raise _Wrong(f"a transfer has no place here: {kind} from {ends[0]} to {ends[1]}")
    wanted = (_made(receipt) - _amount(receipt, "overage"), _amount(receipt, "overage"), _amount(receipt, "refunded"))
    if (taken, lost, refunded) != wanted:
        raise _Wrong("the transfers do not add up to charge, overage and refund")


def _made(receipt: Receipt) -> int:
    """What the price made, before overage and refund; 0 for a void."""
    return 0 if receipt["calculation"] is None else _amount(_object(receipt, "calculation"), "charge")


def _price_of(price: Receipt) -> PriceVersion:
    markup = price["markup_ppm"]
    if not isinstance(markup, int):
        raise TypeError("markup_ppm is no integer")
    return PriceVersion(
        rates=_rates(_object(price, "rates")),
        cost=_rates(_object(price, "provider_rates")),
        markup_ppm=markup,
        cost_reported=price["cost_reported"] is True,
    )


def _rates(shown: Receipt) -> Rates:
    known = {field.name for field in dataclasses.fields(Rates)}
    if not shown.keys() <= known:
        raise ValueError("there is no such rate")
    return Rates(**{name: nano_usd(str(rate)) for name, rate in shown.items()})


def _integers(receipt: Receipt, name: str) -> dict[str, int]:
    counts = {}
    for key, value in _object(receipt, name).items():
        if type(value) is not int:
            raise TypeError(f"{name}.{key} is no integer")
        counts[key] = value
    return counts


def _amount(receipt: Receipt, name: str) -> int:
    return nano_usd(str(receipt[name]))


def _object(receipt: Receipt, name: str) -> dict[str, object]:
    found = receipt[name]
    if not isinstance(found, dict):
        raise TypeError(f"{name} is no object")
    return found


def _list(receipt: Receipt, name: str) -> list[dict[str, object]]:
    found = receipt[name]
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise TypeError(f"{name} is no list of objects")
    return found


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands there twice")
    return found


def _no_fraction(text: str) -> object:
    raise ValueError(f"a receipt has only whole numbers, not {text}")
