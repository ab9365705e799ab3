"""The `tollbridge` command from a terminal: what it offers, refuses and says when nothing runs."""

import asyncio
import json
import os
import subprocess
import sys

import pytest

from cli.admin import _action
from cli.up.options import BUILT_IN_CONFIG


def tollbridge(*arguments: str, cwd=None, **environ: str) -> subprocess.CompletedProcess[str]:
    """Runs the command with only the given TOLLBRIDGE_ variables."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TOLLBRIDGE_")}
    return subprocess.run(
        [sys.executable, "-m", "cli", *arguments],
        env={**kept, **environ, "COLUMNS": "200"},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_help_names_every_command():
    """What is offered works."""
    shown = tollbridge("--help").stdout
    for command in ("up", "serve", "migrate", "config", "spool", "status", "ledger", "receipt", "admin"):
        assert f" {command} " in shown
    ledger = tollbridge("ledger", "--help").stdout
    assert "verify" in ledger
    assert "reconcile" in ledger


def test_help_loads_no_service_and_no_grpc():
    """The command answers at once: heavy parts wait until a command needs them."""
    script = "import sys, cli.__main__; print([name for name in sys.modules if name.split('.')[0] in %r])"
    heavy = ("grpc", "services", "psycopg", "sqlalchemy", "nats", "structlog", "httpx", "rich")
    done = subprocess.run([sys.executable, "-c", script % (heavy,)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "arguments",
    [("status",), ("ledger", "verify", "--json"), ("spool", "replay", "spool")],
)
def test_commands_about_a_running_instance_exit_2_when_there_is_none(tmp_path, arguments):
    """A stopped instance is not a clean one: scripts can tell the difference."""
    done = tollbridge(*arguments, "--data-dir", str(tmp_path), cwd=tmp_path)
    assert done.returncode == 2
    assert "no instance runs" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "environ", "reason"),
    [
        (("ledger", "replay", "--lost"), {"TOLLBRIDGE_TLS_DIR": "/nowhere"}, "TOLLBRIDGE_TLS_DIR: "),
        (("spool", "replay", "lost"), {"TOLLBRIDGE_TLS_DIR": "/nowhere"}, "TOLLBRIDGE_TLS_DIR: "),
        (("ledger", "verify"), {"TOLLBRIDGE_DATABASE_URL": "postgres//x:s3cret@h/x"}, "is no PostgreSQL URL"),
    ],
)
def test_settings_that_cant_be_used_are_named_with_status_2_and_no_secret(tmp_path, arguments, environ, reason):
    """Status 1 would say that the ledger is wrong, or that the job is to be run again."""
    given = {
        "TOLLBRIDGE_NATS_URL": "nats://127.0.0.1:1",
        "TOLLBRIDGE_BILLING_ADDRESSES": "127.0.0.1:1",
        "TOLLBRIDGE_SERVICE_TOKEN": "edge:s3cret",
    }
    done = tollbridge(*arguments, cwd=tmp_path, **{**given, **environ})
    assert done.returncode == 2, done.stderr
    assert reason in done.stderr
    assert "s3cret" not in done.stderr
    assert "Traceback" not in done.stderr


def test_a_ready_json_that_nobody_holds_is_not_believed(tmp_path):
    """After SIGKILL the file is still there, and its addresses may belong to others by now."""
    (tmp_path / "ready.json").write_text(json.dumps({"database_url": "postgresql://nobody@127.0.0.1:1/x"}))
    done = tollbridge("ledger", "verify", "--data-dir", str(tmp_path))
    assert done.returncode == 2
    assert "no instance runs" in done.stderr


def test_the_built_in_config_is_valid_without_any_key():
    """What runs when nothing was configured needs nothing."""
    done = tollbridge("config", "check", str(BUILT_IN_CONFIG))
    assert done.returncode == 0, done.stderr
    assert "valid" in done.stdout


@pytest.mark.parametrize(
    ("text", "line", "key"),
    [
        ("surfaces: []\nprovider: []\n", 2, "provider"),
        ("plans:\n  - {id: free, requests_per_minute: many}\n", 2, "requests_per_minute"),
        ("surfaces:\n  - {prefix: /v1, dialect: klingon}\n", 2, "dialect"),
        ('admin: {auth_token: "${ABSENT_VARIABLE}"}\n', 1, "auth_token"),
    ],
)
def test_errors_in_a_config_name_file_line_and_key(tmp_path, text, line, key):
    """An operator finds the mistake from the message alone."""
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    done = tollbridge("config", "check", str(path))
    assert done.returncode == 1
    assert f"{path}:{line}" in done.stderr
    assert key in done.stderr
    assert "Traceback" not in done.stderr


def test_serve_refuses_what_makes_no_sense():
    """Each refusal says what is wrong and is no traceback."""
    for arguments in (("web",), ("auth", "--workers", "2"), ("edge", "--role", "api"), ("auth", "--check")):
        done = tollbridge("serve", *arguments)
        assert done.returncode == 2, arguments
        assert done.stderr.strip()
        assert "Traceback" not in done.stderr


def test_serve_check_names_every_wrong_variable_without_its_value():
    """All mistakes at once, and no secret in the log."""
    done = tollbridge("serve", "auth", "--check", TOLLBRIDGE_DRAIN_GRACE_S="secret-value")
    assert "TOLLBRIDGE_DRAIN_GRACE_S" in done.stderr
    assert "TOLLBRIDGE_KEY_PEPPERS" in done.stderr
    assert "secret-value" not in done.stderr


@pytest.mark.parametrize("url", ["postgresql://u:hunter2hunter2@127.0.0.1:1/x", "postgresql//u:hunter2hunter2@h/x"])
def test_migrate_says_in_a_line_why_there_is_no_database(url):
    """No traceback, and no password."""
    done = tollbridge("migrate", TOLLBRIDGE_DATABASE_URL=url)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "hunter2" not in done.stderr
    assert done.stderr


def test_migrate_can_be_run_twice_at_once_and_again(postgres_url):
    """Two containers may start together; a third one finds nothing to do."""
    command = [sys.executable, "-m", "cli", "migrate"]
    environ = {**os.environ, "TOLLBRIDGE_DATABASE_URL": postgres_url}
    twins = [subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [twin.communicate(timeout=60)[0] for twin in twins]
    assert [twin.returncode for twin in twins] == [0, 0], outputs
    again = tollbridge("migrate", TOLLBRIDGE_DATABASE_URL=postgres_url)
    assert again.stdout.splitlines() == [f"{name}: up to date" for name in ("auth", "router", "billing", "tasks")]
    assert tollbridge("migrate", "billing", TOLLBRIDGE_DATABASE_URL=postgres_url).stdout == "billing: up to date\n"
    assert tollbridge("migrate", "web", TOLLBRIDGE_DATABASE_URL=postgres_url).returncode == 2
    assert tollbridge("migrate").returncode == 2


@pytest.mark.parametrize("as_json", [False, True])
async def test_losses_lists_what_broke_with_what_its_provider_may_charge(as_json: bool):
    """A table for people, and the API's answer for scripts."""
    receipt = {
        "id": "request-1",
        "ended": "upstream_failed",
        "provider": {"id": "acme", "account": "acme-1", "model": "m", "cost": "0.000000120"},
        "charge": "0.000000000",
    }
    content = json.dumps({"object": "list", "data": [receipt], "has_more": True, "next": "request-1"})
    asked: list[str] = []

    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).decode().split()[1])
        head = f"HTTP/1.1 200 OK\r\ncontent-length: {len(content)}\r\nconnection: close\r\n\r\n"
        writer.write((head + content).encode())
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(reply, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        options = ["--json"] if as_json else []
        environ = {"TOLLBRIDGE_URL": url, "TOLLBRIDGE_ADMIN_TOKEN": "token"}
        done = await asyncio.to_thread(tollbridge, "admin", "losses", *options, **environ)
    assert asked == ["/admin/requests?ended=upstream_failed&ended=gateway_failed&limit=50"]
    assert done.returncode == 0, done.stderr
    if as_json:
        assert json.loads(done.stdout)["data"] == [receipt]
        return
    for text in ("request-1", "upstream_failed", "acme-1", "0.000000120", "more: --after request-1"):
        assert text in done.stdout


def test_the_log_of_operators_actions_is_a_command():
    """With what it can be asked for by."""
    shown = tollbridge("admin", "audit", "--help").stdout
    for option in ("--actor", "--method", "--path", "--since", "--until", "--after", "--json"):
        assert option in shown


def test_a_logged_action_is_one_row():
    """When it was begun, how it ended, and its parameters as they were kept; one without an outcome has none."""
    begun = {"id": "1", "at": "2027-01-31T12:00:00Z", "parameters": {"body": {"credit_usd": "5"}}}
    row = _action({**begun, "outcome": {"at": "2027-01-31T12:00:01Z", "status": 409, "code": "conflict"}})
    assert (row["at"], row["status"], row["code"]) == (begun["at"], 409, "conflict")
    assert row["parameters"] == '{"body": {"credit_usd": "5"}}'
    assert "status" not in _action({**begun, "outcome": None})
