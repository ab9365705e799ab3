"""`tollbridge spool replay` as a job runs it: beside a lost disk, with an environment that says where billing is."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from unittest import mock

import pytest

from chassis.ids import uuid7
from cli.spool import ADDRESSES, TOKEN, replay
from services.edge.spool.spool import Kind, Spool
from tests.unit.cli.test_commands import tollbridge
from tests.unit.edge.world_owners import Owners, Truth
from tollbridge.usage.v1 import usage_pb2

CHARGE = 7000


@pytest.fixture
def truth() -> Truth:
    """What billing knows."""
    return Truth()


@pytest.fixture
async def billing(truth: Truth, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[dict[str, str]]:
    """A billing, and the environment of an edge beside it, which this process has, too."""
    owners = Owners(truth)
    told = {ADDRESSES: await owners.server.start(), TOKEN: "edge:secret"}
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    yield told
    await owners.server.stop(0)


async def run(folder: Path) -> int:
    """The command, without the second that a process of its own takes."""
    return await asyncio.to_thread(replay, folder, data_dir=None)


def lost_spool(folder: Path, truth: Truth, *, lives: bool = False) -> tuple[Spool, dict[str, str]]:
    """What a replica left that had one request finished and one running; and their ids."""
    dead, loop = uuid7(), asyncio.get_running_loop()
    spool = Spool.open(folder, incarnation=dead, sync="group", max_bytes=1 << 24, loop=loop)
    requests = {"finished": uuid7(), "running": uuid7()}
    for name, kind in (("finished", Kind.STARTED), ("running", Kind.STARTED), ("finished", Kind.FINISHED)):
        request, is_end = requests[name], kind is Kind.FINISHED
        truth.held[f"hold-{request}"] = 50_000
        event = usage_pb2.UsageRecorded(
            event_id=str(uuid7()),
            request_id=str(request),
            kind=usage_pb2.USAGE_KIND_CHARGE if is_end else usage_pb2.USAGE_KIND_UNSPECIFIED,
            hold_id=f"hold-{request}",
            charge_nano_usd=CHARGE if is_end else 0,
            closes_hold=True,
            spender=str(dead),
        )
        spool.append(kind, request.bytes, event.SerializeToString())
    if not lives:
        spool.close()
    return spool, {name: str(request) for name, request in requests.items()}


async def test_a_job_replays_a_lost_replicas_disk_with_edges_environment_alone(
    tmp_path: Path, billing: dict[str, str], truth: Truth, capsys: pytest.CaptureFixture[str]
) -> None:
    """No instance of this machine is needed: the finished is charged, the running released, the spool gone."""
    _, ids = lost_spool(tmp_path, truth)
    done = await asyncio.to_thread(tollbridge, "spool", "replay", str(tmp_path), **billing)
    assert done.returncode == 0, done.stderr
    assert "2 events with billing" in done.stdout
    assert truth.applied[ids["finished"]].charge_nano_usd == CHARGE
    assert truth.applied[ids["running"]].kind == usage_pb2.USAGE_KIND_VOID
    assert truth.held == {}
    assert await run(tmp_path) == 0
    assert capsys.readouterr().out == f"{tmp_path}: nothing left to replay\n"


@pytest.mark.usefixtures("billing")
async def test_a_job_that_cant_reach_billing_fails_and_keeps_the_spool(
    tmp_path: Path, truth: Truth, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The next try finds everything; nobody takes a job for done that was not."""
    lost_spool(tmp_path, truth)
    with monkeypatch.context() as patch:
        patch.setattr("cli.spool.TIMEOUT_S", 0.2)
        patch.setenv(ADDRESSES, "127.0.0.1:1")
        assert await run(tmp_path) == 1
    assert "billing did not take it" in capsys.readouterr().err
    assert truth.applied == {}
    assert await run(tmp_path) == 0
    assert "2 events with billing" in capsys.readouterr().out


@pytest.mark.usefixtures("billing")
async def test_a_disk_in_use_is_left_alone_and_that_is_said(
    tmp_path: Path, truth: Truth, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever runs the job too early sees why it had nothing to do."""
    spool, _ = lost_spool(tmp_path, truth, lives=True)
    assert await run(tmp_path) == 0
    spool.close()
    assert "1 spools belong to replicas that live" in capsys.readouterr().out
    assert truth.applied == {}


@pytest.mark.parametrize(
    ("told", "folder", "reason"),
    [
        ({ADDRESSES: "billing:9000"}, "", f"{TOKEN} is not set"),
        ({TOKEN: "edge:secret"}, "", f"{ADDRESSES} is not set"),
        ({ADDRESSES: "billing:9000", TOKEN: "cli:secret"}, "", f"{TOKEN} has to be edge's"),
        ({ADDRESSES: "billing:9000", TOKEN: "edge:secret"}, "elsewhere", "elsewhere is no folder"),
        ({ADDRESSES: "billing:9000", TOKEN: "edge"}, "elsewhere", "elsewhere is no folder"),  # by its certificate
        ({ADDRESSES: "billing:9000", TOKEN: "edges:secret"}, "", f"{TOKEN} has to be edge's"),
    ],
)
def test_a_job_that_can_do_nothing_says_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], told: dict[str, str], folder: str, reason: str
) -> None:
    """A missing variable, another's identity, a disk that is mounted elsewhere: status 2, never one of success."""
    with mock.patch.dict(os.environ, told):
        assert replay(tmp_path / folder, data_dir=None) == 2
    assert reason in capsys.readouterr().err
