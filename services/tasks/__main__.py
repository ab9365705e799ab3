"""One tasks process: settings, objects by keyword, and the order in which they start and stop."""

import structlog

from chassis import db, lifecycle, settings, telemetry
from chassis.config_state import ConfigCollector
from chassis.health import HealthServer
from chassis.metrics import open_registry
from chassis.serving import open_bus, rpc_server
from services.tasks.parts import Parts
from services.tasks.settings import Settings

SCHEMA_TIMEOUT_S = 120.0


async def serve(life: lifecycle.Lifecycle) -> None:
    """Runs until the process is asked to stop."""
    own = settings.load(Settings)
    telemetry.configure_logging(service=own.service_name, replica=own.replica, level=own.log_level)
    log, registry = structlog.get_logger(), open_registry(own.config_path)
    tracer = telemetry.Tracer(service=own.service_name, replica=own.replica, otlp_endpoint=own.otlp_endpoint)
    pool = await db.open_pool(own.database_url, role="tasks")
    bus = await open_bus(own, log)
    parts = Parts(settings=own, pool=pool, bus=bus, tracer=tracer, log=log)
    registry.register(parts.collector())
    registry.register(ConfigCollector(parts.config_state))
    services = [parts.server.service()] if own.is_api else []
    server = rpc_server(own, services=services, tracer=tracer, registry=registry)
    health = HealthServer(bind=own.metrics_bind, registry=registry, ready=parts.not_ready)
    await parts.load_config(life)
    await health.start()
    await db.wait_for_schema(pool, service="tasks", timeout_s=SCHEMA_TIMEOUT_S)
    await parts.start(life)
    log.info("serving", grpc=await server.start(), role=own.role)
    parts.is_serving = True
    await life.stopping.wait()
    parts.is_serving = False
    await server.leave(*life.drain_times(own))
    await life.end()
    await parts.stop()
    await bus.close()
    await pool.close()
    await health.stop()
    tracer.close()


def main() -> None:
    """The process."""
    lifecycle.run(serve)


if __name__ == "__main__":
    main()
