"""Who may call what: each method's list is the one that its proto names."""

import re
from pathlib import Path
from typing import Any, cast

import pytest

from chassis.rpc import RpcService
from services.auth.server import AuthServer
from services.billing.server import BillingServer
from services.billing.statement_server import StatementServer
from services.router.server import RouterServer
from services.tasks.server import TasksServer

PROTO = Path(__file__).resolve().parents[2] / "proto" / "tollbridge"
EVERY_SERVICE = frozenset({"edge", "tasks", "cli", "teams", "auth", "router", "billing"})
METHOD = re.compile(r"// [^\n]*Callers: ([^\n]*)\.\n  rpc (\w+)\(")
NAMES = {"other teams": "teams"}


def _without_parts(server: Any, **also: object) -> Any:
    """A server whose methods are never run."""
    parts = [name for name in server.__init__.__annotations__ if name not in ("return", *also)]
    return server(**dict.fromkeys(parts, cast(Any, lambda: None)), **also)


def _services() -> dict[str, RpcService]:
    class Config:
        state = None

    return {
        "auth": _without_parts(AuthServer).service(),
        "router": _without_parts(RouterServer).service(everybody=EVERY_SERVICE),
        "billing": _without_parts(BillingServer, config=Config()).service(),
        "statements": _without_parts(StatementServer).service(),
        "tasks": _without_parts(TasksServer).service(),
    }


@pytest.mark.parametrize("name", ["auth", "router", "billing", "statements", "tasks"])
def test_each_method_is_open_to_those_whom_its_proto_names(name: str) -> None:
    """The comment is what other teams read: it must neither promise a right nor hide one."""
    (path,) = PROTO.glob(f"*/v1/{name}.proto")
    source = path.read_text()
    promised = {
        method: EVERY_SERVICE if who == "any service" else {NAMES.get(each, each) for each in who.split(", ")}
        for who, method in METHOD.findall(source)
    }
    handlers = _services()[name].handlers
    assert promised == {method: handler.callers for method, handler in handlers.items()}
    assert promised
