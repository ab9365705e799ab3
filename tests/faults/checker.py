"""The auditor: from outside evidence alone, is every nano-dollar where it belongs?

It shares no code with the gateway. Its evidence is the provider's own log, a price table written by hand, what the
gateway answers over HTTP, and `ledger verify --json`. Its rules are money.md's: a finished answer costs exactly its
price; one that the client cut costs between what was delivered and what was generated; one that provider or gateway
broke costs nothing; money sums to zero, nothing stays held, nobody is below zero.

Each `check_…` function returns differences as sentences; none means that all is well. The command exits with 1 when
there are any: `python -m tests.faults.checker --help`.
"""

import argparse
import itertools
import json
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, Decimal, localcontext
from pathlib import Path
from typing import Any

import httpx

from tests.faults.seen import Seen, check_left, check_seen

NANO = Decimal("0.000000001")
MILLION = 1_000_000
CLASSES = ("input", "cached_input", "cache_write", "output")
BROKEN = ("upstream_failed", "gateway_failed")
TIMEOUT_S = 30.0
ASKED_AGAIN = 10
"""How often a question is repeated, at most, a second after it found the instance too busy."""
LOOKED_AT_ALONE = 300
"""Receipts of a customer that are asked for one by one too."""
NOTHING_SEEN = Seen()

Receipt = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Price:
    """What a customer pays, in USD: per million tokens of each class, or per piece."""

    per_million: Mapping[str, Decimal] = field(default_factory=dict)
    per_request: Decimal = Decimal(0)
    per_image: Decimal = Decimal(0)

    def of(self, tokens: Mapping[str, int], *, requests: int = 1, images: int = 0) -> Decimal:
        """USD for all of it, rounded up to the nano-dollar once."""
        with localcontext() as context:
            context.prec = 60
            total = sum((self._rate(name) * count for name, count in tokens.items()), Decimal(0)) / MILLION
            total += self.per_request * requests + self.per_image * images
            return total.quantize(NANO, rounding=ROUND_CEILING)

    def _rate(self, name: str) -> Decimal:
        """A class without a price of its own costs what input costs, but for output."""
        fallback = Decimal(0) if name == "output" else self.per_million.get("input", Decimal(0))
        return self.per_million.get(name, fallback)


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One request as the provider saw it; `cut` is None when it left whole, `open` when the log has no end."""

    request_id: str
    model: str
    finished: bool
    cut: str | None
    status: int
    chunks: int
    chunks_sent: int
    usage_sent: bool
    images: int
    tokens: Mapping[str, int]
    ended_at_us: int = 0


def read_log(path: Path) -> dict[str, list[Attempt]]:
    """The attempts of each request id, in the order of their arrival. A torn last line is left out."""
    arrived: dict[str, dict[str, Any]] = {}
    ended: dict[str, dict[str, Any]] = {}
    for line in path.read_bytes().split(b"\n")[:-1]:
        entry = json.loads(line)
        (arrived if entry["event"] == "arrived" else ended)[entry["id"]] = entry
    attempts: defaultdict[str, list[Attempt]] = defaultdict(list)
    for number, entry in arrived.items():
        attempt = _attempt(entry, ended.get(number))
        attempts[attempt.request_id].append(attempt)
    return dict(attempts)


def _attempt(arrived: Mapping[str, Any], ended: Mapping[str, Any] | None) -> Attempt:
    end = ended or {"finished": False, "cut": "open", "status": 0, "tokens": {}}
    return Attempt(
        request_id=arrived["request_id"] or "",
        model=arrived["model"],
        finished=end["finished"],
        cut=end["cut"],
        status=end["status"],
        chunks=end.get("chunks", 0),
        chunks_sent=end.get("chunks_sent", 0),
        usage_sent=end.get("usage_sent", False),
        images=end.get("images", 0),
        tokens=end["tokens"],
        ended_at_us=end.get("at_us", 0),
    )


def check_request(
    receipt: Receipt | None,
    attempts: Iterable[Attempt],
    prices: Mapping[str, Price],
    *,
    delivered: int = 0,
    shortened: bool = False,
    lossy: bool = False,
    again: bool = False,
) -> list[str]:
    """One request: its receipt against what the provider did. `delivered` is how many pieces its client received;
    `shortened` that it saw its answer end as `length` when the route's total time was over; `lossy` that the network
    may have lost what the provider sent behind the last piece; `again` that it may have been run more than once."""
    seen = list(attempts)
    request_id = seen[0].request_id if seen else str((receipt or {}).get("id"))
    if receipt is None:
        return [f"{request_id}: reached the provider and has no receipt"]
    if not receipt.get("settled", True):
        return [f"{request_id}: not settled"]
    charge = Decimal(receipt["charge"])
    if charge < 0:
        return [f"{request_id}: negative charge {charge}"]
    if not seen or receipt["ended"] in BROKEN:
        why = receipt["ended"] if seen else "though the provider never saw it"
        return [f"{request_id}: was charged {charge}, {why}"] if charge else []
    if again:  # all runs are of one script: the charge is of one of them, and any whole one shows its price
        seen = _of_one_run(seen)
    if lossy and receipt["ended"] == "complete" and receipt["evidence"] == "counted" and not seen[0].images:
        return _check_unheard_usage(receipt, seen, prices[receipt["model"]])
    return _check_ending(receipt, seen, prices, delivered, shortened)


def _of_one_run(attempts: list[Attempt]) -> list[Attempt]:
    """The attempts without all but the last whole one."""
    whole = [attempt for attempt in attempts if attempt.finished]
    return [attempt for attempt in attempts if not attempt.finished] + whole[-1:]


def _check_unheard_usage(receipt: Receipt, attempts: list[Attempt], price: Price) -> list[str]:
    """Every piece came, the usage behind them did not: it was counted, and can't be more than there was."""
    whole = [attempt for attempt in attempts if attempt.chunks_sent == attempt.chunks]
    if not whole:
        return [f"{receipt['id']}: complete, but the provider sent no whole answer"]
    charge, most = Decimal(receipt["charge"]), max(price.of(attempt.tokens) for attempt in whole)
    return [] if 0 < charge <= most else [f"{receipt['id']}: counted as {charge}, which is not within 0 and {most}"]


def _check_ending(
    receipt: Receipt, attempts: list[Attempt], prices: Mapping[str, Price], delivered: int, shortened: bool
) -> list[str]:
    if receipt["model"] not in prices:
        return [f"{receipt['id']}: no price of {receipt['model']} in the table"]
    price = prices[receipt["model"]]
    if receipt["ended"] == "client_gone" or (receipt["ended"] == "complete" and shortened):
        return _check_cut(receipt, attempts, price, delivered)
    if receipt["ended"] == "complete":
        return _check_finished(receipt, attempts, price)
    return [f"{receipt['id']}: ended as {receipt['ended']!r}, which is no way to end"]


def _check_finished(receipt: Receipt, attempts: list[Attempt], price: Price) -> list[str]:
    whole = [attempt for attempt in attempts if attempt.finished]
    if len(whole) != 1:
        return [f"{receipt['id']}: complete, but the provider finished {len(whole)} answers"]
    attempt, charge = whole[0], Decimal(receipt["charge"])
    if not attempt.usage_sent and not attempt.images and price.per_million:
        wrong = receipt["evidence"] != "counted" or charge <= 0
        return [f"{receipt['id']}: without usage from the provider it must be counted and charged"] if wrong else []
    found = []
    wanted = price.of(attempt.tokens, images=attempt.images)
    if charge != wanted:
        found.append(f"{receipt['id']}: charged {charge}, the provider's log says {wanted}")
    if attempt.usage_sent and not attempt.images and (differing := _differing_tokens(receipt["usage"], attempt.tokens)):
        found.append(f"{receipt['id']}: tokens differ from the provider's log: {differing}")
    return found


def _check_cut(receipt: Receipt, attempts: list[Attempt], price: Price, delivered: int) -> list[str]:
    """Client left: drained to the end exactly, else between delivered (a piece is at least a token) and generated."""
    charge, policy = Decimal(receipt["charge"]), receipt["policy"]
    if policy == "absorb":
        return [f"{receipt['id']}: absorb charged {charge}"] if charge else []
    whole = [attempt for attempt in attempts if attempt.finished and attempt.usage_sent]
    if policy == "drain" and len(whole) == 1 and receipt["evidence"] == "provider":
        return _check_finished(receipt, attempts, price)
    least = price.of({"output": delivered}, requests=0)
    most = max((price.of(attempt.tokens, images=attempt.images) for attempt in attempts), default=Decimal(0))
    # An attempt that has no end in the log says nothing of what it generated.
    if any(attempt.cut == "open" for attempt in attempts):
        most = max(most, charge)
    if least <= charge <= most:
        return []
    return [f"{receipt['id']}: cut by its client and charged {charge}, not within {least} and {most}"]


def _differing_tokens(usage: Mapping[str, Any], tokens: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    prompt = tokens.get("input", 0) + tokens.get("cached_input", 0) + tokens.get("cache_write", 0)
    wanted = {
        "prompt_tokens": prompt,
        "cached_tokens": tokens.get("cached_input", 0),
        "cache_write_tokens": tokens.get("cache_write", 0),
        "completion_tokens": tokens.get("output", 0),
    }
    return {name: (usage[name], count) for name, count in wanted.items() if usage[name] != count}


def check_requests(
    receipts: Mapping[str, Receipt],
    log: Mapping[str, list[Attempt]],
    prices: Mapping[str, Price],
    *,
    seen: Seen = NOTHING_SEEN,
) -> list[str]:
    """Every request that either side knows. Attempts without a request id are not the gateway's."""
    ends = {name: max(each.ended_at_us for each in attempts) for name, attempts in log.items()}
    found = check_seen(receipts, seen) + check_left(receipts, seen.left_at_us, ends)
    shortened, again = set(seen.shortened), seen.run_again
    for request_id in sorted((set(receipts) | set(log)) - {""}):
        pieces = seen.delivered.get(request_id, 0)
        attempts = log.get(request_id, [])
        short = request_id in shortened
        images = any(attempt.images for attempt in attempts)
        found += check_request(
            receipts.get(request_id),
            attempts,
            prices,
            delivered=pieces,
            shortened=short,
            lossy=seen.lossy,
            again=images or request_id in again,
        )
    return found


def check_credits(figures: Mapping[str, Any], receipts: Iterable[Receipt], *, credited: Decimal) -> list[str]:
    """One customer's `GET /v1/credits` (its `data`) against all of their receipts and what they were given."""
    charged = sum((Decimal(receipt.get("charge", 0)) for receipt in receipts), Decimal(0))
    balance, held = Decimal(figures["balance"]), Decimal(figures["held"])
    found = []
    if balance < 0 or Decimal(figures["available"]) < 0:
        found.append(f"below zero: balance {balance}, available {figures['available']}")
    if held != 0:
        found.append(f"{held} is still held")
    if balance != credited - charged:
        found.append(f"balance {balance}, but {credited} was credited and the receipts sum to {charged}")
    if Decimal(figures["total_usage"]) != charged:
        found.append(f"total_usage {figures['total_usage']}, but the receipts sum to {charged}")
    return found


def check_ledger(report: Mapping[str, Any], *, charged: Decimal | None = None) -> list[str]:
    """`ledger verify --json` of an instance at rest; `charged` is the sum of all its receipts, where known."""
    found = [] if report["clean"] else ["the ledger calls itself unclean"]
    found += [f"ledger: {each['name']}: {each['examples']}" for each in report["checks"] if each["differences"]]
    total = sum(report["house_nano_usd"].values()) + report["balance_nano_usd"]
    if total != 0:
        found.append(f"all accounts sum to {total} nano-USD")
    for name in ("held_nano_usd", "open_holds", "dead_letters", "outbox"):
        if report[name] != 0:
            found.append(f"{name} is {report[name]}, not 0")
    if charged is not None and charged != report["charged_nano_usd"] * NANO:
        found.append(f"the ledger charged {report['charged_nano_usd'] * NANO}, the receipts sum to {charged}")
    return found


def check_accounts(accounts: Iterable[Mapping[str, Any]]) -> list[str]:
    """`GET /admin/accounts` at rest: every slot is free again."""
    return [f"account {each['id']} has {each['in_use']} slots in use" for each in accounts if each["in_use"]]


def read_prices(path: Path) -> dict[str, Price]:
    """`{"<public model>": {"input": "0.351", …, "per_request": "0.03"}}` in USD; strings and numbers are both exact."""
    table = json.loads(path.read_text(), parse_float=Decimal, parse_int=Decimal)
    return {model: _price(row) for model, row in table.items()}


def _price(row: Mapping[str, Any]) -> Price:
    unknown = set(row) - {*CLASSES, "per_request", "per_image"}
    if unknown:
        raise ValueError(f"unknown prices {sorted(unknown)}")
    pieces = {name: Decimal(row[name]) for name in ("per_request", "per_image") if name in row}
    return Price(per_million={name: Decimal(row[name]) for name in CLASSES if name in row}, **pieces)


def _read(client: httpx.Client, path: str, **parameters: str | int) -> Any:
    """What a GET answers; a machine that other tests keep busy is asked again when it answers too late."""
    for left in reversed(range(ASKED_AGAIN + 1)):
        reply = client.get(path, params=parameters)
        if reply.status_code not in (503, 504) or not left:
            break
        time.sleep(1)
    return reply.raise_for_status().json()


def all_rows(client: httpx.Client, path: str) -> Iterator[dict[str, Any]]:
    """Every row of a list, page by page."""
    after = ""
    while True:
        page = _read(client, path, limit=200, **({"after": after} if after else {}))
        yield from page["data"]
        if not page["has_more"]:
            return
        if not page.get("next") or page["next"] == after:
            raise ValueError(f"{path} has more, but not where")
        after = page["next"]


def audit(
    *,
    data_dir: Path,
    log: Path,
    prices: Mapping[str, Price],
    keys: Iterable[str] = (),
    seen: Seen = NOTHING_SEEN,
) -> list[str]:
    """All checks of one instance at rest, found by its `ready.json`.

    A customer whose key is given is looked up as themselves too. `seen` is what the clients can tell.
    """
    ready = json.loads((data_dir / "ready.json").read_text())
    headers = {"authorization": f"Bearer {ready['admin_token']}"}
    with httpx.Client(base_url=ready["base_url"], headers=headers, timeout=TIMEOUT_S) as admin:
        receipts = {row["id"]: row for row in all_rows(admin, "/admin/requests")}
        found = check_accounts(_read(admin, "/admin/accounts")["data"])
    found += check_requests(receipts, read_log(log), prices, seen=seen)
    for key in keys:
        found += _as_customer(ready["base_url"], key, receipts, credited=seen.credited.get(key))
    charged = sum((Decimal(receipt.get("charge", 0)) for receipt in receipts.values()), Decimal(0))
    return found + check_ledger(ledger_report(data_dir), charged=charged)


def _as_customer(
    base_url: str, key: str, receipts: Mapping[str, Receipt], *, credited: Decimal | None = None
) -> list[str]:
    with httpx.Client(base_url=base_url, headers={"authorization": f"Bearer {key}"}, timeout=TIMEOUT_S) as customer:
        mine = {row["id"]: row for row in all_rows(customer, "/v1/requests")}
        found = [f"{name}: the customer sees another receipt" for name in mine if mine[name] != receipts.get(name)]
        for name, row in itertools.islice(mine.items(), LOOKED_AT_ALONE):
            alone = _read(customer, f"/v1/requests/{name}")
            if alone.get("charge") != row.get("charge"):
                found.append(f"{name}: its receipt and the list differ")
        figures = _read(customer, "/v1/credits")["data"]
        shown = Decimal(figures["total_credits"])
        if credited is not None and shown != credited:
            found.append(f"a customer was given {credited}, and {shown} is there")
        return found + check_credits(figures, mine.values(), credited=shown)


def ledger_report(data_dir: Path) -> dict[str, Any]:
    """Runs `ledger verify --json`, whose exit status says only whether to look closer."""
    command = [sys.executable, "-m", "cli", "ledger", "verify", "--json", "--data-dir", str(data_dir)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode not in (0, 1):
        raise RuntimeError(f"ledger verify failed: {done.stderr[-2000:]}")
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def main() -> None:
    """Audits and exits."""
    parser = argparse.ArgumentParser(prog="tests.faults.checker", description="Audits an instance at rest.")
    parser.add_argument("--data-dir", type=Path, required=True, help="of `tollbridge up`; ready.json says the rest")
    parser.add_argument("--log", type=Path, required=True, help="the fake provider's log")
    parser.add_argument("--prices", type=Path, required=True, help="JSON: model → USD per million by class")
    parser.add_argument("--key", action="append", default=[], help="a customer's key; may be repeated")
    given = parser.parse_args()
    found = audit(data_dir=given.data_dir, log=given.log, prices=read_prices(given.prices), keys=given.key)
    sys.stdout.write("".join(f"{line}\n" for line in found) or "every nano-dollar is where it belongs\n")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
