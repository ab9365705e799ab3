"""A stand-in for Stripe's API: Checkout sessions, charges and disputes over HTTP, and webhooks signed as Stripe signs.

It runs in the test's own process, so a test plays the paying customer by its methods. Shapes are those that Stripe
documents, cut down to what anybody reads.
"""

import contextlib
import hashlib
import hmac
import json
import re
import threading
import time
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx

Json = dict[str, Any]


class FakeStripe:
    """Stripe's state. `down` makes every call fail with 500, `refuses` every new session with 400."""

    def __init__(self, *, secret_key: str, webhook_secret: str) -> None:
        self.secret_key = secret_key
        self.webhook_secret = webhook_secret
        self.url = ""
        self.down = False
        self.refuses = False
        self.requests: list[str] = []
        self.sessions: dict[str, Json] = {}
        self._charges: dict[str, Json] = {}
        self._disputes: dict[str, Json] = {}
        self._refunds: dict[str, Json] = {}
        self._made: dict[str, str] = {}
        self._lock = threading.Lock()

    # What a paying customer and their bank do.

    def session_of(self, url: str) -> str:
        """The session behind a payment page."""
        return url.rpartition("/")[2]

    def pay(self, session_id: str, *, paid: bool = True, **changes: Any) -> str:
        """Completes a session; `paid=False` is a bank debit under way. Returns the payment intent."""
        session = self.sessions[session_id]
        intent = session["payment_intent"] or f"pi_{uuid.uuid4().hex}"
        status = "paid" if paid else "unpaid"
        session |= {"status": "complete", "payment_status": status, "payment_intent": intent, "url": None} | changes
        return str(intent)

    def lapse(self, session_id: str) -> None:
        """Lets a session expire."""
        self.sessions[session_id] |= {"status": "expired", "url": None}

    def refund(self, intent: str, cents: int) -> str:
        """Refunds so much more of an intent's charge; returns the charge."""
        charge_id = "ch_" + intent.removeprefix("pi_")
        empty = {"id": charge_id, "object": "charge", "payment_intent": intent, "currency": "usd", "amount_refunded": 0}
        charge = self._charges.setdefault(charge_id, empty)
        charge["amount_refunded"] += cents
        refund = {"object": "refund", "charge": charge_id, "amount": cents, "created": int(time.time())}
        refund |= {"id": f"re_{uuid.uuid4().hex}", "payment_intent": intent, "currency": "usd", "status": "succeeded"}
        self._refunds[str(refund["id"])] = refund
        return charge_id

    def dispute(self, intent: str, cents: int, status: str = "needs_response") -> str:
        """The cardholder disputes; returns the dispute."""
        dispute = {
            "id": f"dp_{uuid.uuid4().hex}",
            "object": "dispute",
            "payment_intent": intent,
            "currency": "usd",
            "amount": cents,
            "status": status,
            "created": int(time.time()),
        }
        self._disputes[dispute["id"]] = dispute
        return str(dispute["id"])

    def decide(self, dispute_id: str, status: str) -> None:
        """The bank decides a dispute."""
        self._disputes[dispute_id]["status"] = status

    # Webhooks.

    def event(self, kind: str, object_id: str, **claims: Any) -> bytes:
        """An event's body. `claims` are what the object in it says, which nobody should believe."""
        body = {
            "id": f"evt_{uuid.uuid4().hex}",
            "object": "event",
            "type": kind,
            "data": {"object": {"id": object_id, **claims}},
        }
        return json.dumps(body, indent=2).encode()

    def signed(self, body: bytes, *, at: float | None = None, secrets: tuple[str, ...] = ()) -> str:
        """The Stripe-Signature header: a time and one v1 signature for each secret."""
        moment = int(time.time() if at is None else at)
        parts = [f"t={moment}"]
        for secret in secrets or (self.webhook_secret,):
            digest = hmac.new(secret.encode(), f"{moment}.".encode() + body, hashlib.sha256).hexdigest()
            parts.append(f"v1={digest}")
        return ",".join([*parts, "v0=0"])

    def send(self, base_url: str, body: bytes, signature: str | None = None) -> httpx.Response:
        """Delivers a webhook."""
        headers = {
            "stripe-signature": self.signed(body) if signature is None else signature,
            "content-type": "application/json; charset=utf-8",
        }
        return httpx.post(f"{base_url}/webhooks/stripe", content=body, headers=headers, timeout=20)

    def tell(self, base_url: str, kind: str, object_id: str) -> httpx.Response:
        """Makes an event and delivers it."""
        return self.send(base_url, self.event(kind, object_id))

    # The API.

    def answer(self, method: str, target: str, authorization: str, form: str, key: str) -> tuple[int, Json]:
        """One call of the API."""
        with self._lock:
            path = urlsplit(target).path
            self.requests.append(f"{method} {path}")
            if refusal := self._refusal(method, authorization):
                return refusal, {"error": {"type": "invalid_request_error", "message": "No"}}
            if (method, path) == ("POST", "/v1/checkout/sessions"):
                return 200, self._create(parse_qs(form), key)
            if (method, path) == ("GET", "/v1/checkout/sessions"):
                intent = parse_qs(urlsplit(target).query)["payment_intent"][0]
                data = [each for each in self.sessions.values() if each["payment_intent"] == intent]
                return 200, {"object": "list", "data": data, "has_more": False, "url": path}
            if method == "GET" and path in {"/v1/refunds", "/v1/disputes"}:
                return 200, self._listed(path, parse_qs(urlsplit(target).query))
            found = re.fullmatch(r"/v1/(checkout/sessions|charges|disputes)/(\w+)", path)
            tables = {"checkout/sessions": self.sessions, "charges": self._charges, "disputes": self._disputes}
            thing = tables[found[1]].get(found[2]) if found else None
            if thing is None:
                return 404, {"error": {"type": "invalid_request_error", "code": "resource_missing", "message": "No"}}
            return 200, thing

    def _listed(self, path: str, query: dict[str, list[str]]) -> Json:
        """A page, the newest first."""
        since, limit = int(query["created[gte]"][0]), int(query["limit"][0])
        rows = (self._refunds if path == "/v1/refunds" else self._disputes).values()
        found = [row for row in reversed(rows) if row["created"] >= since]
        if "starting_after" in query:
            found = found[[row["id"] for row in found].index(query["starting_after"][0]) + 1 :]
        page = found[:limit]
        if "data.charge" in [value for name, values in query.items() if name.startswith("expand") for value in values]:
            page = [row | {"charge": self._charges[row["charge"]]} for row in page]
        return {"object": "list", "data": page, "has_more": len(found) > limit, "url": path}

    def _refusal(self, method: str, authorization: str) -> int:
        if self.down:
            return 500
        if authorization != f"Bearer {self.secret_key}":
            return 401
        return 400 if self.refuses and method == "POST" else 0

    def _create(self, form: dict[str, list[str]], key: str) -> Json:
        if key in self._made:
            return self.sessions[self._made[key]]
        session_id = f"cs_test_{uuid.uuid4().hex}"
        self._made[key] = session_id
        self.sessions[session_id] = {
            "id": session_id,
            "object": "checkout.session",
            "client_reference_id": form["client_reference_id"][0],
            "amount_total": int(form["line_items[0][price_data][unit_amount]"][0]),
            "currency": form["line_items[0][price_data][currency]"][0],
            "expires_at": int(form["expires_at"][0]),
            "success_url": form["success_url"][0],
            "url": f"{self.url}/pay/{session_id}",
            "status": "open",
            "payment_status": "unpaid",
            "payment_intent": None,
        }
        return self.sessions[session_id]


@contextlib.contextmanager
def fake_stripe(
    *, secret_key: str = "sk_test_canary", webhook_secret: str = "whsec_canary", host: str = "127.0.0.1"
) -> Iterator[FakeStripe]:
    """Serves on a port of its own for the time of the block."""
    state = FakeStripe(secret_key=secret_key, webhook_secret=webhook_secret)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            form = self.rfile.read(int(self.headers.get("content-length", 0))).decode()
            status, payload = state.answer(
                self.command,
                self.path,
                self.headers.get("authorization", ""),
                form,
                self.headers.get("idempotency-key", ""),
            )
            body = json.dumps(payload).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            self._serve()

        def do_POST(self) -> None:
            self._serve()

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer((host, 0), Handler)
    state.url = f"http://{host}:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        thread.join(5)
        server.server_close()
