"""What only all replicas of a service know together: what configuration each runs, what all routers see of accounts."""

import asyncio
from collections.abc import Iterable, Mapping
from typing import TypedDict, TypeVar

from google.protobuf.message import Message

from chassis.config_state import ConfigState
from chassis.errors import Code, TollbridgeError
from chassis.pipe import PipeClient
from services.edge.admin.ask_every import ask_every
from services.edge.clients import Clients
from services.edge.http.json_http import rfc3339
from services.edge.openapi.description import TIME
from tollbridge.auth.v1 import auth_pb2
from tollbridge.billing.v1 import billing_pb2
from tollbridge.router.v1 import router_pb2
from tollbridge.tasks.v1 import tasks_pb2

TIMEOUT_S = 3.0
_LAST_OF_ALL = {"broken": 1, "cooling": 2, "ready": 3, "drained": 4}


class Account(TypedDict):
    """An account at a provider; `slots` is null without a limit. A drained one left the config and ends its work."""

    id: str
    provider: str
    state: str
    slots: int | None
    in_use: int
    cooled_until: TIME | None
    error_rate: float


class ConfigStates(TypedDict):
    """The configuration in use: router's, and by replica the hash that it runs, null for one that doesn't answer.

    A replica's name is its service's and its address; an edge's its machine and replica. Silent edges are left out.
    """

    hash: str | None
    loaded_at: TIME | None
    error: str | None
    replicas: dict[str, str | None]


Reply = TypeVar(
    "Reply",
    auth_pb2.GetConfigStateResponse,
    router_pb2.GetConfigStateResponse,
    billing_pb2.GetConfigStateResponse,
    tasks_pb2.GetConfigStateResponse,
)


async def config_states(clients: Clients, *, edges: Mapping[str, ConfigState]) -> ConfigStates:
    """What every replica runs; `edges` have said so. The error is the first one's that refused the file, by name."""
    services = await asyncio.gather(
        _states("auth", clients.auth, auth_pb2.GetConfigStateRequest(), auth_pb2.GetConfigStateResponse),
        _states("router", clients.router, router_pb2.GetConfigStateRequest(), router_pb2.GetConfigStateResponse),
        _states("billing", clients.billing, billing_pb2.GetConfigStateRequest(), billing_pb2.GetConfigStateResponse),
        _states("tasks", clients.tasks, tasks_pb2.GetConfigStateRequest(), tasks_pb2.GetConfigStateResponse),
    )
    states: dict[str, ConfigState | None] = {}
    for service in services:
        states |= service
    states |= {f"edge/{name}": state for name, state in edges.items()}
    refusals = (f"{name}: {state.error}" for name, state in states.items() if state and state.error)
    routers = [state for name, state in services[1].items() if state is not None]
    return {
        "hash": routers[0].hash if routers else None,
        "loaded_at": rfc3339(routers[0].loaded_at_us) if routers else None,
        "error": next(refusals, None),
        "replicas": {name: state.hash if state else None for name, state in states.items()},
    }


async def _states(name: str, pipe: PipeClient, request: Message, kind: type[Reply]) -> dict[str, ConfigState | None]:
    """By replica; a service of which no replica is known has its bare name."""
    found = await ask_every(pipe, "GetConfigState", request, kind, timeout_s=TIMEOUT_S)
    states = {
        f"{name}/{target}": None
        if reply is None
        else ConfigState(hash=reply.hash, loaded_at_us=reply.loaded_at_us, error=reply.error)
        for target, reply in sorted(found.items())
    }
    return states or {name: None}


async def all_accounts(router: PipeClient) -> list[Account]:
    """Accounts as all routers see them together. Raises UNAVAILABLE when none answers."""
    found = await ask_every(
        router,
        "ListAccounts",
        router_pb2.ListAccountsRequest(),
        router_pb2.ListAccountsResponse,
        timeout_s=TIMEOUT_S,
    )
    answers = [reply.accounts for reply in found.values() if reply is not None]
    if not answers:
        raise TollbridgeError(Code.UNAVAILABLE, "No router answers.", retry_after_s=1)
    seen: dict[str, list[router_pb2.ProviderAccount]] = {}
    for accounts in answers:
        for each in accounts:
            seen.setdefault(each.id, []).append(each)
    return [account(each) for each in seen.values()]


def account(seen: Iterable[router_pb2.ProviderAccount]) -> Account:
    """One account as several routers see it: in the worst state of those, for the longest time.

    The slots of a limited one are counted in the database, alike for all; what runs on an unlimited one each router
    counts for itself. One that only some have in their config is not drained yet.
    """
    listed = sorted(seen, key=lambda one: _LAST_OF_ALL.get(one.state, 0))
    worst = listed[0]
    in_use = [one.in_use for one in listed if one.state != "drained" or worst.state == "drained"]
    shared = bool(worst.slots) or worst.state == "drained"
    return {
        "id": worst.id,
        "provider": worst.provider_id,
        "state": worst.state,
        "slots": worst.slots or None,
        "in_use": max(in_use) if shared else sum(in_use),
        "cooled_until": rfc3339(max(one.cooled_until_us for one in listed)),
        "error_rate": max(one.error_rate for one in listed),
    }
