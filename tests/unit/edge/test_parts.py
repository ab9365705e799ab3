"""One edge's objects, put together as its process does: the loops that the others rely on run."""

from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry

from chassis.ids import uuid7
from chassis.lifecycle import Lifecycle
from chassis.serving import open_bus
from chassis.telemetry import Tracer
from services.edge.parts import Parts, load_config
from services.edge.settings import Settings
from tests.unit.edge.world import until


async def test_the_time_in_which_it_runs_is_counted(tmp_path: Path, nats_url: str) -> None:
    """Else no client would ever block a write, whoever does not read."""
    nobody = "127.0.0.1:1"
    settings = Settings(
        nats_url=nats_url,
        spool_dir=str(tmp_path / "spool"),
        service_token="edge:e",
        auth_addresses=nobody,
        router_addresses=nobody,
        billing_addresses=nobody,
        tasks_addresses=nobody,
    )
    log, life = structlog.get_logger(), Lifecycle()
    parts = Parts(
        settings=settings,
        configuration=await load_config(settings, log),
        incarnation=uuid7(),
        bus=await open_bus(settings, log),
        tracer=Tracer(service="edge", replica="0", otlp_endpoint=""),
        registry=CollectorRegistry(),
    )
    await parts.start(life)
    try:
        await until(lambda: parts._relay.awake.seconds > 0)
    finally:
        await life.end()
        await parts.close()
