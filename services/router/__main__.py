"""Composition root of router: settings, objects by keyword, run."""

from pathlib import Path

from chassis import db, lifecycle, settings, telemetry
from chassis.callers import parse_tokens
from chassis.health import HealthServer
from chassis.metrics import open_registry
from chassis.serving import rpc_server
from services.router.parts import build
from services.router.settings import Settings
from services.router.store_desk import IDLE_MS

WAITING_GRACE_S = 2.0
"""Who waits for a slot longer than that waits on at another router: its pipe asks there when ours ends."""


async def serve(life: lifecycle.Lifecycle) -> None:
    """Starts everything, serves until asked to stop, drains."""
    own = settings.load(Settings)
    telemetry.configure_logging(service=own.service_name, replica=own.replica, level=own.log_level)
    metrics = open_registry(own.config_path)
    tracer = telemetry.Tracer(service=own.service_name, replica=own.replica, otlp_endpoint=own.otlp_endpoint)
    tokens = parse_tokens(own.service_tokens, certified=bool(own.tls_dir))
    pool = await db.open_pool(own.database_url, role="router", idle_ms=IDLE_MS)
    parts = build(pool=pool, config_path=Path(own.config_path), everybody=frozenset(tokens), metrics=metrics)
    serving = False
    health = HealthServer(bind=own.metrics_bind, registry=metrics, ready=lambda: None if serving else "not serving")
    await health.start()
    await db.wait_for_schema(pool, service="router", timeout_s=own.schema_wait_s)
    await parts.watch.load_first()
    await parts.rests.know()
    rpc = rpc_server(own, services=[parts.service], tracer=tracer, registry=metrics)
    await rpc.start()
    life.spawn("config-watch", parts.watch.run())
    life.spawn("slot-sweep", parts.desk.sweep())
    life.spawn("shared-rests", parts.rests.run())
    life.spawn("attempt-book", parts.decider.tend())
    life.spawn("slot-figures", parts.slots.run())
    serving = True
    await life.stopping.wait()
    serving = False
    announce_s, grace_s = life.drain_times(own)
    await rpc.leave(announce_s, min(grace_s, WAITING_GRACE_S))
    await life.end()
    await health.stop()
    await pool.close()
    tracer.close()


def main() -> None:
    """Runs router until it is asked to stop."""
    lifecycle.run(serve)


if __name__ == "__main__":
    main()
