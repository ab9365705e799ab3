"""`tollbridge status`: who runs where, whether they are ready, how far billing lags, what the spools hold."""

import asyncio
import contextlib
import json
import os
import urllib.parse
from pathlib import Path
from typing import Any

from cli.admin import show_table
from cli.running import RunningInstance
from cli.up.probe import http_is_ready
from cli.up.process import identify

LAG_TIMEOUT_S = 3.0
COLUMNS = ("name", "replica", "pid", "state", "address", "metrics")


def show_status(instance: RunningInstance, *, as_json: bool) -> None:
    """Prints the state of a running instance."""
    rows = asyncio.run(_rows(instance.content))
    lag = asyncio.run(_lag(str(instance.content["nats_url"])))
    spools = {name: _bytes_below(instance.data_dir.spool(name)) for name in ("edge", "tasks")}
    if as_json:
        print(json.dumps({"services": rows, "unacknowledged": lag, "spool_bytes": spools}, indent=1))
        return
    show_table(rows, COLUMNS)
    print()
    for durable, count in lag.items():
        print(f"{durable}: {count} messages to apply")
    for name, size in spools.items():
        print(f"spool of {name}: {size:,} bytes")


async def _rows(content: dict[str, Any]) -> list[dict[str, Any]]:
    return [await _row(each, content) for each in content["services"]]


async def _row(service: dict[str, Any], content: dict[str, Any]) -> dict[str, Any]:
    address = str(service.get("http") or service.get("grpc") or "")
    if identify(int(service["pid"] or 0)) is None:
        state = "dead"
    elif "metrics" not in service:
        state = "running"
        url = str(content.get(_URLS.get(service["name"], ""), ""))
        address = address or urllib.parse.urlsplit(url).netloc.rpartition("@")[2]
    else:
        probed = str(service.get("http") or service["metrics"])
        state = "ready" if await http_is_ready(probed) else "not ready"
    return {**service, "address": address, "state": state}


_URLS = {"nats": "nats_url", "postgres": "database_url"}


async def _lag(nats_url: str) -> dict[str, int]:
    """How many messages each durable consumer has not acknowledged; empty when NATS doesn't answer."""
    import nats
    from nats.errors import Error

    try:
        client = await nats.connect(nats_url, connect_timeout=LAG_TIMEOUT_S, allow_reconnect=False, error_cb=_ignore)
    except (OSError, Error):
        return {}
    try:
        async with asyncio.timeout(LAG_TIMEOUT_S):
            context = client.jetstream()
            found = {}
            for stream in await context.streams_info():
                for consumer in await context.consumers_info(stream.config.name or ""):
                    waiting = (consumer.num_pending or 0) + (consumer.num_ack_pending or 0)
                    found[consumer.name] = waiting
            return found
    except (TimeoutError, Error):
        return {}
    finally:
        await client.close()


async def _ignore(_error: Exception) -> None:
    """The connect call itself raises what matters."""


def _bytes_below(folder: Path) -> int:
    """Segments and folders come and go meanwhile: one that is gone by the time it is looked at counts nothing."""
    size = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                size += os.stat(os.path.join(parent, name)).st_size
    return size
