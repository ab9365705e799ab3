"""`spool replay`: hands what lost replicas left on a disk to billing, when no edge of that disk will start again.

Finished requests are charged, unfinished ones are released, each exactly once, whatever was sent before: billing knows
every event by its request. A spool is deleted only when billing has all of it. A replica that still lives keeps its
lock and is left alone.
"""

import asyncio
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

from chassis.errors import TollbridgeError
from chassis.ids import now_floor
from chassis.pipe import PipeClient
from chassis.settings import ServiceSettings, load
from chassis.telemetry import Tracer
from chassis.tls import Certificates
from cli.running import NotRunning, find_instance
from cli.up.instance_secrets import load_or_make
from services.edge.spending.replay import unconfirmed
from services.edge.spool.spool import FormerSpool, former
from tollbridge.billing.v1 import billing_pb2
from tollbridge.usage.v1 import usage_pb2

BATCH = 500
TIMEOUT_S = 30.0
NOBODY = UUID(int=0)
ADDRESSES, TOKEN = "TOLLBRIDGE_BILLING_ADDRESSES", "TOLLBRIDGE_SERVICE_TOKEN"
_INCARNATION = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
TAKEN = (billing_pb2.EVENT_STATE_COMMITTED, billing_pb2.EVENT_STATE_DEAD_LETTERED)


class NoWay(Exception):
    """Billing can't be asked as things are; the message says what is missing."""


def replay(directory: Path, *, data_dir: Path | None) -> int:
    """Replays every former spool in `directory`; returns the exit status. Raises SettingsError."""
    tls = Certificates.of(load(ServiceSettings))
    try:
        addresses, token = _billing(data_dir)
    except (NotRunning, NoWay) as error:
        print(error, file=sys.stderr)
        return 2
    if not directory.is_dir():  # a volume that is mounted elsewhere must not look like one that is done
        print(f"{directory} is no folder", file=sys.stderr)
        return 2
    left = list(former(directory, own=NOBODY))
    if in_use := _spools(directory) - len(left):
        print(f"{directory}: {in_use} spools belong to replicas that live, and are left alone")
    if not left:
        print(f"{directory}: nothing left to replay")
        return 0
    return asyncio.run(_replay(left, addresses=addresses, token=token, tls=tls))


def _spools(directory: Path) -> int:
    """How many incarnations have one there."""
    names = (each.name for each in directory.iterdir())
    return sum(1 for name in names if _INCARNATION.fullmatch(name))


def _billing(data_dir: Path | None) -> tuple[str, str]:
    """Where billing is and as whom to ask it: by the environment, as in a job, else by the running instance."""
    addresses, token = os.environ.get(ADDRESSES, ""), os.environ.get(TOKEN, "")
    if data_dir is None and (addresses or token):
        if not (addresses and token):
            raise NoWay(f"{TOKEN if addresses else ADDRESSES} is not set")
        if token.partition(":")[0] != "edge":
            raise NoWay(f"{TOKEN} has to be edge's: what edges spent is taken from nobody else")
        return addresses, token
    instance = find_instance(data_dir)
    rows = [each for each in instance.content["services"] if each["name"] == "billing"]
    secrets = load_or_make(instance.data_dir, environ={})
    return ",".join(str(each["grpc"]) for each in rows), secrets.own_token("edge")  # it acts for the lost replica


async def _replay(left: Sequence[FormerSpool], *, addresses: str, token: str, tls: Certificates | None) -> int:
    billing = PipeClient(
        descriptor=billing_pb2.DESCRIPTOR.services_by_name["BillingService"],
        addresses=addresses,
        token=token,
        tracer=Tracer(service="cli", replica="0", otlp_endpoint=""),
        tls=tls,
    )
    await billing.start()
    status = 0
    try:
        for spool in left:
            status |= await _replay_one(spool, billing)
    finally:
        await billing.close()
    return status


async def _replay_one(spool: FormerSpool, billing: PipeClient) -> int:
    events = unconfirmed(spool.records())
    try:
        states = [
            state for start in range(0, len(events), BATCH) for state in await _send(billing, events[start:][:BATCH])
        ]
    except TollbridgeError as error:
        print(f"{spool.incarnation}: billing did not take it: {error}", file=sys.stderr)
        spool.close()
        return 1
    aside = states.count(billing_pb2.EVENT_STATE_DEAD_LETTERED)
    if any(state not in TAKEN for state in states):
        print(f"{spool.incarnation}: billing took only part of {len(events)} events; kept", file=sys.stderr)
        spool.close()
        return 1
    try:
        await _end_spender(billing, str(spool.incarnation))
    except TollbridgeError as error:
        print(f"{spool.incarnation}: its leases are not closed, kept: {error}", file=sys.stderr)
        spool.close()
        return 1
    spool.delete()
    print(f"{spool.incarnation}: {len(events)} events with billing, {aside} of them set aside for an operator")
    return 0


async def _send(billing: PipeClient, events: list[usage_pb2.UsageRecorded]) -> list[billing_pb2.EventState.ValueType]:
    reply = await billing.call(
        "RecordUsage",
        billing_pb2.RecordUsageRequest(events=events),
        billing_pb2.RecordUsageResponse,
        timeout_s=TIMEOUT_S,
    )
    return list(reply.states)


async def _end_spender(billing: PipeClient, spender: str) -> None:
    """Nothing is left to charge, so its leases need not wait for their end."""
    await billing.call(
        "StateLeases",
        billing_pb2.StateLeasesRequest(spender=spender, as_of=str(now_floor()), spender_ended=True),
        billing_pb2.StateLeasesResponse,
        timeout_s=TIMEOUT_S,
    )
