"""A stand-in for TronGrid: blocks, and the USDT that came to an address, over HTTP in the shapes that it documents."""

import contextlib
import dataclasses
import json
import threading
import time
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from services.billing.payments.tron_address import account_of, address_of

Json = dict[str, Any]
USDT = "TR7NHqjeKQxGTCi8q8ZY4pL8otSzgjLj6t"
SHOP = address_of(bytes.fromhex("aa" * 20))
PAYER = address_of(bytes.fromhex("bb" * 20))
PAGE = 200
SLOW_S = 0.3
_TRANSFER = "ddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef"


@dataclasses.dataclass
class Transaction:
    """One transaction in a block."""

    id: str
    block: int
    at_ms: int
    logs: list[Json]
    amounts: list[int]
    result: str = "SUCCESS"
    hidden: bool = False


class FakeTron:
    """The chain. `down` makes every call fail, `busy` all questions about transactions, `refused` those about some.

    `slow` transactions are told of after all others that were asked for at the same time.
    """

    def __init__(self) -> None:
        self.url = ""
        self.down = False
        self.busy = False
        self.refused: set[str] = set()
        self.slow: set[str] = set()
        self.height = 1000
        self.keys_seen: set[str] = set()
        self.transactions: list[Transaction] = []

    def send(
        self, *amounts_micro_usdt: int, contract: str = USDT, to: str = SHOP, at: float | None = None
    ) -> Transaction:
        """A transaction with one transfer for each amount, in the newest block."""
        logs = [
            {
                "address": account_of(contract).hex(),
                "topics": [_TRANSFER, "0" * 24 + account_of(PAYER).hex(), "0" * 24 + account_of(to).hex()],
                "data": f"{amount:064x}",
            }
            for amount in amounts_micro_usdt
        ]
        made = Transaction(
            id=uuid.uuid4().hex * 2,
            block=self.height,
            at_ms=int((time.time() if at is None else at) * 1000),
            logs=logs,
            amounts=list(amounts_micro_usdt),
        )
        self.transactions.append(made)
        return made

    def mine(self, blocks: int) -> None:
        """So many more blocks."""
        self.height += blocks

    def answer(self, method: str, target: str, body: str, key: str) -> tuple[int, Json]:
        """One call."""
        self.keys_seen.add(key)
        parts = urlsplit(target)
        if self.down:
            return 503, {}
        if parts.path == "/wallet/getnowblock":
            return 200, {"blockID": "00", "block_header": {"raw_data": {"number": self.height}}}
        if parts.path == "/wallet/gettransactioninfobyid":
            asked = json.loads(body)["value"]
            if self.busy or asked in self.refused:
                return 429, {}
            if asked in self.slow:
                time.sleep(SLOW_S)
            return 200, self._info(asked)
        if method == "GET" and parts.path == f"/v1/accounts/{SHOP}/transactions/trc20":
            return 200, self._listed({name: values[0] for name, values in parse_qs(parts.query).items()})
        return 404, {"Error": "not found"}

    def _info(self, transaction_id: str) -> Json:
        for each in self.transactions:
            if each.id == transaction_id and not each.hidden:
                info = {
                    "id": each.id,
                    "blockNumber": each.block,
                    "blockTimeStamp": each.at_ms,
                    "receipt": {"energy_usage_total": 1, "result": each.result},
                    "log": each.logs,
                }
                return info | ({} if each.result == "SUCCESS" else {"result": "FAILED"})
        return {}

    def _listed(self, query: dict[str, str]) -> Json:
        assert query["only_to"] == "true"
        assert query["contract_address"] == USDT
        since, first = int(query["min_timestamp"]), int(query.get("fingerprint", "0"))
        rows = [
            {
                "transaction_id": each.id,
                "token_info": {"symbol": "USDT", "address": USDT, "decimals": 6, "name": "Tether USD"},
                "block_timestamp": each.at_ms,
                "from": PAYER,
                "to": SHOP,
                "type": "Transfer",
                "value": str(amount),
            }
            for each in sorted(self.transactions, key=lambda it: it.at_ms)
            for amount in each.amounts
            if each.at_ms >= since
        ]
        page, meta = rows[first : first + PAGE], {"at": int(time.time() * 1000), "page_size": PAGE}
        if first + PAGE < len(rows):
            meta["fingerprint"] = str(first + PAGE)  # type: ignore[assignment]  # it is text, as theirs is
        return {"success": True, "data": page, "meta": meta}


@contextlib.contextmanager
def fake_tron() -> Iterator[FakeTron]:
    """Serves on a port of its own for the time of the block."""
    state = FakeTron()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0))).decode()
            status, payload = state.answer(self.command, self.path, body, self.headers.get("tron-pro-api-key", ""))
            content = json.dumps(payload).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_GET(self) -> None:
            self._serve()

        def do_POST(self) -> None:
            self._serve()

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        thread.join(5)
        server.server_close()
