"""The audit log over HTTP: every action of an operator is in it, with who, when, what and how it ended."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from chassis.errors import Code, TollbridgeError
from services.auth import audit_store
from services.edge.admin.audit import HIDDEN, LONGEST_PARAMETERS, LONGEST_TEXT, actor_of, parameters, shortened
from tests.unit.edge.office import ADMIN_TOKEN, Office, office


@pytest.fixture
async def desk(auth_database: str) -> AsyncIterator[Office]:
    """Edge's pages."""
    async with office(auth_database) as running:
        yield running


async def logged(desk: Office, request_id: str) -> dict[str, Any]:
    """The line of one request."""
    rows = (await desk.admin("GET", "/admin/audit"))["data"]
    return next(row for row in rows if row["id"] == request_id)


async def test_an_action_is_logged_with_who_did_what_and_how_it_ended(desk: Office) -> None:
    """As soon as it is answered, under the request id of its answer."""
    made = await desk.ask("POST", "/admin/customers", ADMIN_TOKEN, {"name": "Ada", "email": "a@b.c", "credit_usd": "2"})
    line = await logged(desk, made.headers["x-request-id"])
    assert (line["method"], line["path"], line["outcome"]["status"]) == ("POST", "/admin/customers", 201)
    assert line["outcome"]["code"] is None
    assert line["actor"] == f"token:{hashlib.sha256(ADMIN_TOKEN.encode()).hexdigest()[:8]}"
    assert line["address"] == "127.0.0.1"
    assert line["parameters"] == {"body": {"name": "Ada", "email": HIDDEN, "credit_usd": "2"}}
    assert line["at"] <= line["outcome"]["at"]


async def test_a_refused_action_is_logged_with_the_code_of_its_refusal(desk: Office) -> None:
    """What was tried is worth knowing, also when nothing came of it."""
    unknown = "0192aaaa-0000-7000-8000-000000000009"
    refused = await desk.ask("DELETE", f"/admin/keys/{unknown}", ADMIN_TOKEN)
    outcome = (await logged(desk, refused.headers["x-request-id"]))["outcome"]
    assert (outcome["status"], outcome["code"]) == (404, "not_found")


async def test_every_action_of_the_admin_api_is_logged(desk: Office) -> None:
    """Whatever is not a mere reading; draining too."""
    customer = await desk.customer()
    key = await desk.key(customer, name="k")
    for method, path, body in [
        ("PATCH", f"/admin/customers/{customer}", {"status": "active"}),
        ("POST", f"/admin/customers/{customer}/credits", {"amount_usd": 1}),
        ("DELETE", f"/admin/keys/{key['id']}", None),
        ("POST", "/admin/refunds", {"request_id": customer, "reason": "why"}),
        ("PUT", f"/admin/customers/{customer}/alerts", {}),
        ("POST", "/admin/drain", None),
        ("POST", "/admin/undrain", None),
    ]:
        reply = await desk.ask(method, path, ADMIN_TOKEN, body)
        line = await logged(desk, reply.headers["x-request-id"])
        assert (line["method"], line["path"], line["outcome"]["status"]) == (method, path, reply.status_code)


async def test_the_log_says_which_edge_was_drained(desk: Office) -> None:
    """Of several, the one that the request reached."""
    reply = await desk.ask("POST", "/admin/undrain", ADMIN_TOKEN)
    assert (await logged(desk, reply.headers["x-request-id"]))["parameters"] == {"edge": "machine/0"}


async def test_actions_at_once_are_all_logged_with_their_own_outcomes(desk: Office) -> None:
    """None is lost, none mixed up with another."""
    customer = await desk.customer()
    path = f"/admin/customers/{customer}/credits"
    replies = await asyncio.gather(
        *(desk.ask("POST", path, ADMIN_TOKEN, {"amount_usd": amount}) for amount in (1, 2, 3, "x", 0))
    )
    rows = {row["id"]: row for row in (await desk.admin("GET", f"/admin/audit?path={path}"))["data"]}
    assert len(rows) == len(replies)
    for reply in replies:
        assert rows[reply.headers["x-request-id"]]["outcome"]["status"] == reply.status_code


async def test_reading_and_strangers_leave_no_line(desk: Office) -> None:
    """A dashboard would fill the log, and so would anybody without the token."""
    for reply in (
        await desk.ask("GET", "/admin/customers", ADMIN_TOKEN),
        await desk.ask("POST", "/admin/customers", "wrong", {"name": "x"}),
    ):
        rows = (await desk.admin("GET", "/admin/audit"))["data"]
        assert reply.headers["x-request-id"] not in {row["id"] for row in rows}


async def test_what_cant_be_logged_is_not_done(desk: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    """503 and when to ask again; nothing has happened."""
    customer = await desk.customer()

    async def unavailable(*_: object) -> None:
        raise TollbridgeError(Code.UNAVAILABLE, "The database is away.", retry_after_s=1)

    monkeypatch.setattr("services.auth.audit_store.insert_action", unavailable)
    path = f"/admin/customers/{customer}/credits"
    refused = await desk.ask("POST", path, ADMIN_TOKEN, {"amount_usd": "5"})
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert refused.json()["error"]["code"] == "unavailable"
    assert desk.billing.balances[customer] == 0
    assert (await desk.ask("GET", f"/admin/customers/{customer}", ADMIN_TOKEN)).status_code == 200


async def test_an_action_that_was_written_down_too_late_is_logged_as_refused(
    desk: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Auth's answer did not come in time, so nothing was done; the line says so."""
    insert = audit_store.insert_action

    async def written_but_not_said(*arguments: Any) -> None:
        async with arguments[0].transaction():
            await insert(*arguments)
        await arguments[0].commit()
        raise TollbridgeError(Code.UNAVAILABLE, "The connection broke.", retry_after_s=1)

    monkeypatch.setattr("services.auth.audit_store.insert_action", written_but_not_said)
    refused = await desk.ask("POST", "/admin/customers", ADMIN_TOKEN, {"name": "Ada"})
    assert refused.status_code == 503
    outcome = (await logged(desk, refused.headers["x-request-id"]))["outcome"]
    assert (outcome["status"], outcome["code"]) == (503, "unavailable")


async def test_an_older_auth_without_an_audit_log_is_a_503(desk: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a rolling upgrade nothing is done unlogged, and the client is told that it may ask again."""

    async def no_such_method(*_: object) -> None:
        raise TollbridgeError(Code.METHOD_NOT_ALLOWED, "no such method")

    monkeypatch.setattr("services.auth.audit_store.insert_action", no_such_method)
    monkeypatch.setattr("services.auth.audit_store.actions", no_such_method)
    for method, path in (("POST", "/admin/customers"), ("GET", "/admin/audit")):
        refused = await desk.ask(method, path, ADMIN_TOKEN, {"name": "Ada"} if method == "POST" else None)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert refused.json()["error"]["code"] == "unavailable"


async def test_an_outcome_that_cant_be_logged_changes_no_answer(desk: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was done; that it was begun is in the log."""

    async def unavailable(*_: object) -> None:
        raise TollbridgeError(Code.UNAVAILABLE, "The database is away.", retry_after_s=1)

    monkeypatch.setattr("services.auth.audit_store.insert_outcome", unavailable)
    made = await desk.ask("POST", "/admin/customers", ADMIN_TOKEN, {"name": "Ada"})
    assert made.status_code == 201
    assert (await logged(desk, made.headers["x-request-id"]))["outcome"] is None


async def test_the_log_is_paged_and_filtered(desk: Office) -> None:
    """As every list, and by actor, method, path and time."""
    first, second = await desk.customer(), await desk.customer()
    path = f"/admin/customers/{second}"
    await desk.admin("PATCH", path, {"status": "suspended"})
    await desk.admin("PATCH", path, {"status": "active"})
    rows = (await desk.admin("GET", f"/admin/audit?path={path}"))["data"]
    assert [row["parameters"]["body"]["status"] for row in rows] == ["active", "suspended"]
    newest = await desk.admin("GET", f"/admin/audit?path={path}&limit=1")
    assert (newest["has_more"], newest["next"]) == (True, rows[0]["id"])
    older = await desk.admin("GET", f"/admin/audit?path={path}&limit=1&after={newest['next']}")
    assert ([row["id"] for row in older["data"]], older["has_more"]) == ([rows[1]["id"]], False)
    assert (await desk.admin("GET", f"/admin/audit?path={path}&method=POST"))["data"] == []
    assert (await desk.admin("GET", "/admin/audit?actor=token:00000000"))["data"] == []
    assert (await desk.admin("GET", f"/admin/audit?path={path}&to=2020-01-01T00:00:00Z"))["data"] == []
    refused = await desk.ask("GET", "/admin/audit?from=yesterday", ADMIN_TOKEN)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "from")
    assert first != second


def test_secrets_are_left_out_wherever_they_stand() -> None:
    """By their fields' names, in lists and objects too; numbers of tokens are none."""
    body = b'{"a": [{"webhook_secret": "s3"}], "Password": "s3", "tokens_per_minute": 5, "amount": 0.10}'
    text = parameters([("token", "s3"), ("x", "1")], body)
    assert "s3" not in text
    assert '"tokens_per_minute":5' in text
    assert '"amount":"0.10"' in text
    assert "s3cret" not in actor_of("Bearer s3cret")


@pytest.mark.parametrize(
    "name", ["apiKey", "api-key", "client_secret", "credentials", "X-Auth-Token", "e-mail", "keys"]
)
def test_a_secret_is_known_by_its_field_however_that_is_written(name: str) -> None:
    """In the words of others, too."""
    assert "s3" not in parameters([(name, "s3")], b'{"%s": ["s3"]}' % name.encode())


@pytest.mark.parametrize("secret", ["sk-proj-0123456789abcdef01", "whsec_0123456789abcdef0123", "sk_live_" + "a" * 24])
def test_a_providers_key_in_a_text_is_hidden(secret: str) -> None:
    """Where nobody expects one, such as in a reason."""
    text = parameters([], b'{"reason": "moved to %s now", "%s": 1}' % (secret.encode(), secret.encode()))
    assert secret not in text
    assert "moved to (hidden) now" in text


def test_a_long_text_is_cut_between_words() -> None:
    """Half a key would not be known as one."""
    key = "tb_live_" + "7" * 43
    cut = shortened("x" * (LONGEST_TEXT - 30) + " " + key)
    assert cut == "x" * (LONGEST_TEXT - 30) + " …"
    assert len(shortened("a b" * 1000)) <= LONGEST_TEXT + 1


@pytest.mark.parametrize(
    "body", [b"x" * 70_000, b"[" * 60_000, b"\xff", b'{"a": "' + b"x" * 9000 + b'"}', b"[" + b'"x",' * 9000 + b"1]"]
)
def test_whatever_is_sent_its_line_is_short(body: bytes) -> None:
    """A body that can't be shown is told by its digest."""
    assert len(parameters([], body)) <= LONGEST_PARAMETERS
