"""The auditor finds each kind of wrong charge, and nothing where all is well."""

import ast
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.faults import checker
from tests.faults.checker import Attempt, Price
from tests.faults.seen import Seen, Told, check_seen

PRICE = Price(per_million={"input": Decimal("0.351"), "cached_input": Decimal("0.0351"), "output": Decimal("1.43")})
PRICES = {"alpha-chat": PRICE}
TOKENS = {"input": 7, "cached_input": 4, "cache_write": 0, "output": 9}
EXACT = "0.000015468"  # (7 × 351 + 4 × 35.1 + 9 × 1430) nano-USD = 15467.4, rounded up


def attempt(**changes: Any) -> Attempt:
    plain: dict[str, Any] = {
        "request_id": "r1",
        "model": "upstream-alpha",
        "finished": True,
        "cut": None,
        "status": 200,
        "chunks": 5,
        "chunks_sent": 5,
        "usage_sent": True,
        "images": 0,
        "tokens": TOKENS,
    }
    return Attempt(**(plain | changes))


def receipt(**changes: Any) -> dict[str, Any]:
    usage = {"prompt_tokens": 11, "cached_tokens": 4, "cache_write_tokens": 0, "completion_tokens": 9}
    plain = {
        "id": "r1",
        "model": "alpha-chat",
        "settled": True,
        "charge": EXACT,
        "ended": "complete",
        "evidence": "provider",
        "policy": None,
        "usage": usage,
    }
    return plain | changes


CUT = {"finished": False, "cut": "client", "chunks_sent": 2, "usage_sent": False}
GONE = {"ended": "client_gone", "evidence": "counted"}


@pytest.mark.parametrize(
    ("paper", "seen", "delivered"),
    [
        (receipt(), [attempt()], 0),
        (receipt(), [attempt(finished=False, cut="refused", status=500, tokens={}), attempt()], 0),
        (receipt(charge="0.000004", evidence="counted"), [attempt(usage_sent=False)], 0),
        (receipt(ended="upstream_failed", charge="0"), [attempt(finished=False, cut="script")], 3),
        (receipt(ended="gateway_failed", charge="0.000000000"), [attempt()], 5),
        (receipt(**GONE, policy="cancel", charge="0.000005"), [attempt(**CUT)], 2),
        (receipt(**GONE | {"evidence": "provider"}, policy="drain"), [attempt()], 2),
        (receipt(**GONE, policy="absorb", charge="0"), [attempt(**CUT)], 2),
    ],
)
def test_a_right_charge_raises_no_difference(paper: dict[str, Any], seen: list[Attempt], delivered: int) -> None:
    """Whatever the way a request ended, its right charge is silent."""
    assert checker.check_request(paper, seen, PRICES, delivered=delivered) == []


@pytest.mark.parametrize(
    ("paper", "seen", "delivered", "says"),
    [
        (receipt(charge="0.000015467"), [attempt()], 0, "log says 0.000015468"),
        (receipt(charge="0.000015469"), [attempt()], 0, "log says 0.000015468"),
        (receipt(usage=receipt()["usage"] | {"cached_tokens": 0}), [attempt()], 0, "tokens differ"),
        (receipt(), [attempt(), attempt()], 0, "finished 2 answers"),
        (receipt(), [attempt(finished=False, cut="script")], 0, "finished 0 answers"),
        (receipt(usage_sent=False), [attempt(usage_sent=False)], 0, "must be counted"),
        (receipt(ended="upstream_failed"), [attempt(finished=False, cut="script")], 0, "was charged"),
        (receipt(ended="gateway_failed"), [], 0, "was charged"),
        (receipt(**GONE, policy="cancel", charge="0.000002859"), [attempt(**CUT)], 2, "not within 0.000002860"),
        (receipt(**GONE, policy="cancel", charge="0.000015469"), [attempt(**CUT)], 2, "and 0.000015468"),
        (receipt(**GONE | {"evidence": "provider"}, policy="drain", charge="0.000015"), [attempt()], 2, "log says"),
        (receipt(**GONE, policy="absorb"), [attempt(**CUT)], 2, "absorb charged"),
        (receipt(), [], 0, "never saw it"),
        (receipt(charge="-1", ended="upstream_failed"), [attempt()], 0, "negative"),
        (receipt(model="beta"), [attempt()], 0, "no price"),
        (receipt(ended="vanished"), [attempt()], 0, "no way to end"),
        ({"id": "r1", "settled": False}, [attempt()], 0, "not settled"),
        (None, [attempt()], 0, "no receipt"),
    ],
)
def test_every_wrong_charge_is_found(
    paper: dict[str, Any] | None, seen: list[Attempt], delivered: int, says: str
) -> None:
    """A nano-dollar too much or too little, a charge for nothing, nothing for a charge: each is named."""
    found = checker.check_request(paper, seen, PRICES, delivered=delivered)
    assert any(says in line for line in found), found


def test_a_fixed_price_needs_no_usage() -> None:
    """What is sold by the request costs its price whether or not the provider told its tokens."""
    prices = {"alpha-chat": Price(per_request=Decimal("0.03"))}
    counted = receipt(charge="0.030000000", evidence="counted", usage={})
    assert checker.check_request(counted, [attempt(usage_sent=False)], prices) == []
    cheaper = receipt(charge="0.02", evidence="counted", usage={})
    assert checker.check_request(cheaper, [attempt(usage_sent=False)], prices) != []


def test_prices_are_exact_at_any_size() -> None:
    """Counts beyond a float's digits and rates of many places lose nothing; rounding is up, once."""
    huge = Price(per_million={"input": Decimal("0.000000001"), "output": Decimal("123456.789012345")})
    assert huge.of({"input": 1, "output": 0}) == Decimal("0.000000001")
    assert huge.of({"input": 0, "output": 10**15 + 1}) == Decimal("123456789012345.123456790")
    assert Price(per_request=Decimal("0.03")).of(TOKENS) == Decimal("0.03")
    assert PRICE.of({"cache_write": 1_000_000}) == Decimal("0.351")


def test_both_sides_are_asked_for_requests() -> None:
    """A receipt without the provider's line and a line without a receipt are both found."""
    log = {"r1": [attempt()], "r2": [attempt(request_id="r2")], "": [attempt(request_id="")]}
    papers = {"r1": receipt(), "r3": receipt(id="r3")}
    found = checker.check_requests(papers, log, PRICES)
    assert [line.split(":")[0] for line in found] == ["r2", "r3"]


def test_a_customers_books_must_close() -> None:
    """Credited less the receipts is the balance; nothing held, nothing below zero."""
    good = {"balance": "0.999984532", "held": "0", "available": "0.999984532", "total_usage": EXACT}
    assert checker.check_credits(good, [receipt()], credited=Decimal(1)) == []
    for change in ({"balance": "1"}, {"held": "0.1"}, {"available": "-1"}, {"total_usage": "0"}):
        assert len(checker.check_credits(good | change, [receipt()], credited=Decimal(1))) == 1
    assert checker.check_credits(good, [receipt(), receipt()], credited=Decimal(1)) != []


def test_the_ledger_must_be_clean_and_at_rest() -> None:
    """Each figure that should be zero and is not, and each failed check, is named."""
    good: dict[str, Any] = {
        "clean": True,
        "checks": [{"name": "sum_is_zero", "differences": 0, "examples": []}],
        "house_nano_usd": {"revenue": 15468, "clearing": -1_000_000_000},
        "balance_nano_usd": 999_984_532,
        "held_nano_usd": 0,
        "open_holds": 0,
        "dead_letters": 0,
        "outbox": 0,
        "charged_nano_usd": 15468,
    }
    assert checker.check_ledger(good, charged=Decimal(EXACT)) == []
    bad_check = [{"name": "sum_is_zero", "differences": 1, "examples": ["x"]}]
    for change in (
        {"clean": False},
        {"checks": bad_check},
        {"balance_nano_usd": 1},
        {"held_nano_usd": 5},
        {"open_holds": 1},
        {"dead_letters": 1},
        {"outbox": 1},
        {"charged_nano_usd": 1},
    ):
        assert len(checker.check_ledger(good | change, charged=Decimal(EXACT))) == 1
    assert checker.check_accounts([{"id": "a", "in_use": 0}]) == []
    assert checker.check_accounts([{"id": "a", "in_use": 1}]) != []


def test_a_log_is_read_up_to_its_torn_end(tmp_path: Path) -> None:
    """An attempt without an end is open, and half a line is no line."""
    arrived = {"event": "arrived", "id": "1", "request_id": "r1", "model": "m"}
    ended = {
        "event": "ended",
        "id": "1",
        "finished": True,
        "cut": None,
        "status": 200,
        "chunks": 5,
        "chunks_sent": 5,
        "usage_sent": True,
        "images": 0,
        "tokens": TOKENS,
    }
    lines = [arrived, arrived | {"id": "2"}, ended]
    path = tmp_path / "log"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"event": "arr')
    one, other = checker.read_log(path)["r1"]
    assert (one.finished, one.tokens, other.finished, other.cut) == (True, TOKENS, False, "open")


def test_prices_are_read_without_floats(tmp_path: Path) -> None:
    """Strings and numbers both come as written; an unknown class is refused."""
    path = tmp_path / "prices"
    path.write_text('{"a": {"input": 0.1, "output": "0.3", "per_request": 0.03}}')
    price = checker.read_prices(path)["a"]
    assert price == Price(per_million={"input": Decimal("0.1"), "output": Decimal("0.3")}, per_request=Decimal("0.03"))
    path.write_text('{"a": {"inputs": 1}}')
    with pytest.raises(ValueError, match="unknown prices"):
        checker.read_prices(path)


def test_the_auditor_shares_no_code_with_the_audited() -> None:
    """An import of the gateway would let one mistake hide on both sides."""
    tree = ast.parse(Path(checker.__file__).read_text())
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert imported.isdisjoint({"chassis", "pricing", "upstream", "services", "cli", "tollbridge"})


def told(**changes: Any) -> Told:
    return Told(**({"request_id": "r1", "whole": True, "content": b"answer"} | changes))


PARTLY = told(whole=False, content=b"ans")


@pytest.mark.parametrize(
    ("answers", "charges", "says"),
    [
        ([PARTLY, told(), told()], {"r1": EXACT}, []),
        ([told(), told(content=b"another")], {"r1": EXACT}, ["key k: 2 whole answers differ, of ['r1']"]),
        ([PARTLY, told(request_id="r2")], {"r1": EXACT, "r2": EXACT}, ["key k: several requests are charged"]),
        ([told()], {"r1": "0.000000000"}, ["r1: came whole under a key, and its receipt"]),
        ([told()], {}, ["r1: came whole under a key, and its receipt"]),
    ],
)
def test_a_key_is_one_charge_and_one_answer(answers: list[Told], charges: dict[str, str], says: list[str]) -> None:
    """Whatever came in pieces before it was whole; and who left meanwhile and asked again pays it all the same."""
    papers = {name: receipt(id=name, charge=charge, ended="client_gone") for name, charge in charges.items()}
    found = check_seen(papers, Seen(told={"k": answers}))
    assert len(found) == len(says)
    assert all(line.startswith(start) for line, start in zip(found, says, strict=True))


def test_what_ran_again_under_its_key_costs_one_run() -> None:
    """Its first runner died behind the provider's end: two whole answers in the log, one on the receipt."""
    seen = [attempt(), attempt()]
    assert checker.check_request(receipt(), seen, PRICES)
    assert checker.check_request(receipt(), seen, PRICES, again=True) == []
    twice = receipt(charge=str(2 * Decimal(EXACT)))
    assert checker.check_request(twice, seen, PRICES, again=True)


def test_images_that_came_are_charged() -> None:
    """A picture without a finished receipt was given away."""
    assert check_seen({"t": receipt(id="t")}, Seen(painted={"t": 1})) == []
    assert check_seen({"t": receipt(id="t", ended="gateway_failed")}, Seen(painted={"t": 1}))


@pytest.mark.parametrize(
    ("ended", "after_s", "is_wrong"),
    [("complete", 0.5, False), ("complete", 1.5, True), ("client_gone", 1.5, False)],
)
def test_who_had_left_before_their_answer_came_got_no_complete_one(ended: str, after_s: float, is_wrong: bool) -> None:
    """What was on its way when a client left may end either way; what came long after may not."""
    log = {"r1": [attempt(ended_at_us=int((10 + after_s) * 1e6))]}
    papers = {"r1": receipt(ended=ended, policy="drain")}
    found = checker.check_requests(papers, log, PRICES, seen=Seen(left_at_us={"r1": 10_000_000}))
    assert bool(found) is is_wrong
