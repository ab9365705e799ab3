"""`tollbridge admin`: customers, credits, keys, what operators did. Tables for people, `--json` for scripts."""

import json
import uuid
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.running import NotRunning, find_admin

app = typer.Typer(no_args_is_help=True, help="Customers, credits and keys, over the admin API.")
customers = typer.Typer(no_args_is_help=True, help="Make, list and change customers.")
credits_app = typer.Typer(no_args_is_help=True, help="Give and correct credit.")
keys = typer.Typer(no_args_is_help=True, help="Make, list and revoke API keys.")
app.add_typer(customers, name="customers")
app.add_typer(credits_app, name="credits")
app.add_typer(keys, name="keys")

DataDirOption = Annotated[
    Path | None, typer.Option("--data-dir", help="The instance's data directory; default: .tollbridge.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the API's answer as JSON.")]

TIMEOUT_S = 15.0
WIDTH_WITHOUT_TERMINAL = 300
CUSTOMER_COLUMNS = ("id", "name", "email", "plan", "status", "balance", "spend_cap", "created_at")
KEY_COLUMNS = ("id", "customer_id", "name", "prefix", "models", "spend_cap", "expires_at", "revoked_at", "created_at")
AUDIT_COLUMNS = ("id", "at", "actor", "address", "method", "path", "parameters", "status", "code")
LOSS_COLUMNS = ("id", "created_at", "customer_id", "model", "ended", "provider", "provider_account", "cost", "charge")

CapOption = Annotated[str, typer.Option("--spend-cap-usd", help="Decimal USD, per --spend-cap-per.")]
CapPerOption = Annotated[str, typer.Option("--spend-cap-per", help="day, month or total.")]


@customers.command("list")
def list_customers(
    data_dir: DataDirOption = None, as_json: JsonOption = False, limit: int = 50, after: str = ""
) -> None:
    """Lists customers with their balances."""
    query = {"limit": str(limit), **({"after": after} if after else {})}
    _show(_call("GET", "/admin/customers", data_dir, query=query), CUSTOMER_COLUMNS, as_json)


@customers.command("create")
def create_customer(
    name: str,
    *,
    email: Annotated[str, typer.Option(help="For people only.")] = "",
    plan: Annotated[str, typer.Option(help="A plan of the config file; default: its default plan.")] = "",
    credit_usd: Annotated[str, typer.Option(help="Opening credit, on top of the welcome credit.")] = "0",
    spend_cap_usd: CapOption = "",
    spend_cap_per: CapPerOption = "month",
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Makes a customer."""
    cap = _cap(spend_cap_usd, spend_cap_per)
    body = {"name": name, "email": email, "plan": plan, "credit_usd": credit_usd, "spend_cap": cap}
    made = _call("POST", "/admin/customers", data_dir, body=_given(body))
    _show(made, CUSTOMER_COLUMNS, as_json)


@customers.command("update")
def update_customer(
    customer_id: str,
    *,
    plan: Annotated[str, typer.Option(help="The new plan.")] = "",
    status: Annotated[str, typer.Option(help="active, suspended or banned.")] = "",
    spend_cap_usd: CapOption = "",
    spend_cap_per: CapPerOption = "month",
    no_spend_cap: Annotated[bool, typer.Option("--no-spend-cap", help="Take the cap away.")] = False,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Changes a customer's plan, status or spend cap."""
    body = _given({"plan": plan, "status": status, "spend_cap": _cap(spend_cap_usd, spend_cap_per)})
    if no_spend_cap:
        body["spend_cap"] = None
    _show(_call("PATCH", f"/admin/customers/{customer_id}", data_dir, body=body), CUSTOMER_COLUMNS, as_json)


@credits_app.command("add")
def add_credit(
    customer_id: str,
    amount_usd: Annotated[str, typer.Argument(help="Decimal USD; negative corrects.")],
    reason: Annotated[str, typer.Option(help="For the books.")] = "",
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Gives a customer credit, or with a negative amount takes it back (write `-- -1.50`)."""
    path = f"/admin/customers/{customer_id}/credits"
    moved = _call("POST", path, data_dir, body={"amount_usd": amount_usd, "reason": reason})
    _show(moved, ("transfer_id", "balance"), as_json)


@credits_app.command("show")
def show_credit(customer_id: str, data_dir: DataDirOption = None, as_json: JsonOption = False) -> None:
    """Shows a customer's balance, and how much of it is held."""
    found = _call("GET", f"/admin/customers/{customer_id}", data_dir)
    _show(found, ("id", "name", "balance", "held"), as_json)


@keys.command("list")
def list_keys(
    customer: Annotated[str, typer.Option(help="Only this customer's.")] = "",
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
    limit: int = 50,
    after: str = "",
) -> None:
    """Lists keys; their secrets can't be shown again."""
    query = _given({"customer_id": customer, "limit": str(limit), "after": after})
    _show(_call("GET", "/admin/keys", data_dir, query=query), KEY_COLUMNS, as_json)


@keys.command("create")
def create_key(
    name: str,
    *,
    customer: Annotated[str, typer.Option(help="Whose; default: the default customer.")] = "",
    model: Annotated[list[str] | None, typer.Option(help="Allow only this model; may be repeated.")] = None,
    requests_per_minute: Annotated[int | None, typer.Option(min=1)] = None,
    tokens_per_minute: Annotated[int | None, typer.Option(min=1)] = None,
    concurrent: Annotated[int | None, typer.Option(min=1)] = None,
    spend_cap_usd: CapOption = "",
    spend_cap_per: CapPerOption = "month",
    allowed_ip: Annotated[list[str] | None, typer.Option(help="A CIDR; may be repeated.")] = None,
    expires_at: Annotated[str, typer.Option(help="RFC 3339.")] = "",
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Makes a key; its secret is shown here and never again."""
    body = _given(
        {
            "name": name,
            "customer_id": customer,
            "models": model,
            "requests_per_minute": requests_per_minute,
            "tokens_per_minute": tokens_per_minute,
            "concurrent": concurrent,
            "spend_cap": _cap(spend_cap_usd, spend_cap_per),
            "allowed_ips": allowed_ip,
            "expires_at": expires_at,
        }
    )
    _show(_call("POST", "/admin/keys", data_dir, body=body), ("key", "id", "customer_id", "name"), as_json)


@keys.command("revoke")
def revoke_key(key_id: str, data_dir: DataDirOption = None, as_json: JsonOption = False) -> None:
    """Revokes a key: within a second no new request is let in with it."""
    _show(_call("DELETE", f"/admin/keys/{key_id}", data_dir), KEY_COLUMNS, as_json)


@app.command()
def losses(
    *,
    customer: Annotated[str, typer.Option(help="Only this customer's.")] = "",
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
    limit: int = 50,
    after: str = "",
) -> None:
    """Lists requests that a provider or the gateway broke, with what providers may charge for them all the same."""
    query = _given({"ended": ["upstream_failed", "gateway_failed"], "customer_id": customer, "after": after})
    found = _call("GET", "/admin/requests", data_dir, query={**query, "limit": str(limit)})
    if not as_json:
        found["data"] = [_loss(row) for row in found["data"]]
    _show(found, LOSS_COLUMNS, as_json)


@app.command()
def audit(
    *,
    actor: Annotated[str, typer.Option(help="Only by this one.")] = "",
    method: Annotated[str, typer.Option(help="Only by this method; COMMAND is the command line's.")] = "",
    path: Annotated[str, typer.Option(help="Only paths that begin so.")] = "",
    since: Annotated[str, typer.Option(help="RFC 3339.")] = "",
    until: Annotated[str, typer.Option(help="RFC 3339.")] = "",
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
    limit: int = 50,
    after: str = "",
) -> None:
    """Lists what operators did: who, when, what, and how it ended."""
    query = {"actor": actor, "method": method, "path": path, "from": since, "to": until, "after": after}
    found = _call("GET", "/admin/audit", data_dir, query={**_given(query), "limit": str(limit)})
    if not as_json:
        found["data"] = [_action(row) for row in found["data"]]
    _show(found, AUDIT_COLUMNS, as_json)


def _action(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "parameters": json.dumps(row["parameters"]), **_given(row["outcome"] or {}), "at": row["at"]}


def _loss(receipt: dict[str, Any]) -> dict[str, Any]:
    provider = receipt["provider"]
    return {**receipt, "provider": provider["id"], "provider_account": provider["account"], "cost": provider["cost"]}


def _cap(amount_usd: str, per: str) -> dict[str, str] | None:
    return {"amount_usd": amount_usd, "per": per} if amount_usd else None


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value not in ("", None, [])}


def _call(
    method: str,
    path: str,
    data_dir: Path | None,
    *,
    query: dict[str, Any] | None = None,
    body: dict[str, Any] | None = None,
) -> dict[str, Any]:
    import httpx

    try:
        base_url, token = find_admin(data_dir)
        headers = {"authorization": f"Bearer {token}"}
        if method == "POST":
            headers["idempotency-key"] = str(uuid.uuid4())
        answer = httpx.request(method, base_url + path, params=query, json=body, headers=headers, timeout=TIMEOUT_S)
    except NotRunning as error:
        raise _failed(str(error)) from error
    except httpx.HTTPError as error:
        raise _failed(f"{base_url} can't be reached: {error}") from error
    if answer.is_error:
        raise _failed(_error_text(answer.status_code, answer.text))
    content: dict[str, Any] = answer.json()
    return content


def _error_text(status: int, text: str) -> str:
    try:
        return f"{status}: {json.loads(text)['error']['message']}"
    except (ValueError, KeyError, TypeError):
        return f"{status}: {text[:500]}"


def _failed(message: str) -> typer.Exit:
    typer.echo(message, err=True)
    return typer.Exit(1)


def _show(content: dict[str, Any], columns: tuple[str, ...], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(content, indent=1))
        return
    rows = content["data"] if content.get("object") == "list" else [content]
    show_table(rows, columns)
    if content.get("has_more"):
        typer.echo(f"more: --after {content.get('next')}")


def show_table(rows: list[dict[str, Any]], columns: tuple[str, ...]) -> None:
    """Prints rows as a table, without the columns that no row has."""
    from rich.console import Console
    from rich.table import Table

    shown = [name for name in columns if any(row.get(name) not in (None, "", []) for row in rows)]
    table = Table(box=None, pad_edge=False)
    for name in shown:
        table.add_column(name.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*(_cell(row.get(name)) for name in shown))
    console = Console()
    if not console.is_terminal:  # a pipe has no width: ids stay whole
        console = Console(width=WIDTH_WITHOUT_TERMINAL)
    console.print(table)


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, dict) and "per" in value:  # a spend cap
        spent = value.get("spent_usd")
        return f"{value['amount_usd']} per {value['per']}" + (f", {spent} spent" if spent else "")
    return ", ".join(str(part) for part in value) if isinstance(value, list) else str(value)
