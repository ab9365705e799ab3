"""A real edge process, and how it leaves: its readiness falls first, its listener closes later, and it ends well."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx

from cli.up.ports import pick_ports

OWNERS = ("AUTH", "ROUTER", "BILLING", "TASKS")
WITHIN_S = 90.0
"""Its end takes some ten seconds where no owner is there to be told, and twice that on a busy machine."""


@contextlib.asynccontextmanager
async def edge_process(
    folder: Path, nats_url: str, **environ: str
) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """A ready `python -m services.edge` without owners, and its URL; killed at the end if it is still there."""
    http, metrics, *owners = (f"127.0.0.1:{port}" for port in pick_ports(6))
    told = {
        **os.environ,
        **{f"TOLLBRIDGE_{name}_ADDRESSES": owner for name, owner in zip(OWNERS, owners, strict=True)},
        "TOLLBRIDGE_NATS_URL": nats_url,
        "TOLLBRIDGE_HTTP_BIND": http,
        "TOLLBRIDGE_METRICS_BIND": metrics,
        "TOLLBRIDGE_SPOOL_DIR": str(folder / "spool"),
        "TOLLBRIDGE_SERVICE_TOKEN": "edge:secret",
        **environ,
    }
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "services.edge", env=told)
    try:
        await seen(f"http://{http}", 200)
        yield process, f"http://{http}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def seen(url: str, status: int | None) -> httpx.Response | None:
    """Waits until `/readyz` answers so, or for None, until nobody listens."""
    deadline = time.monotonic() + WITHIN_S
    async with httpx.AsyncClient() as client:
        while time.monotonic() < deadline:
            try:
                reply = await client.get(f"{url}/readyz", headers={"connection": "close"})
            except httpx.ConnectError:
                reply = None
            if (reply.status_code if reply else None) == status:
                return reply
            await asyncio.sleep(0.02)
    raise AssertionError(f"{url} did not come to {status}")


async def test_sigterm_is_announced_before_the_listener_closes(tmp_path: Path, nats_url: str) -> None:
    """Not ready, and still answering, on connections that end; then nobody listens, and the process ends with 0."""
    async with (
        edge_process(tmp_path, nats_url, TOLLBRIDGE_DRAIN_ANNOUNCE_S="3") as (process, url),
        httpx.AsyncClient() as kept,
    ):
        assert "connection" not in (await kept.get(f"{url}/livez")).headers
        began_s = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert await seen(url, 503) is not None
        alive = await kept.get(f"{url}/livez")
        assert (alive.status_code, alive.headers["connection"]) == (200, "close")
        await seen(url, None)
        assert time.monotonic() - began_s > 2.5
        assert await asyncio.wait_for(process.wait(), WITHIN_S) == 0


async def test_sigint_is_not_announced(tmp_path: Path, nats_url: str) -> None:
    """Who interrupts it waits for it."""
    async with edge_process(tmp_path, nats_url, TOLLBRIDGE_DRAIN_ANNOUNCE_S="600") as (process, _):
        process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(process.wait(), WITHIN_S) == 0


async def test_an_admin_port_begins_and_ends_with_the_process(tmp_path: Path, nats_url: str) -> None:
    """The metrics are there alone, and it keeps nothing from its end."""
    admin = f"127.0.0.1:{pick_ports(1)[0]}"
    async with (
        edge_process(tmp_path, nats_url, TOLLBRIDGE_ADMIN_BIND=admin, TOLLBRIDGE_DRAIN_ANNOUNCE_S="0.1") as (
            process,
            url,
        ),
        httpx.AsyncClient() as client,
    ):
        assert (await client.get(f"{url}/metrics")).status_code == 404
        assert (await client.get(f"http://{admin}/metrics")).status_code == 200
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), WITHIN_S) == 0
