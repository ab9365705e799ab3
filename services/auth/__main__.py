"""One auth process: settings, objects by keyword, and the order in which they start and stop."""

import structlog

from chassis import db, lifecycle, settings, telemetry
from chassis.config_state import ConfigCollector
from chassis.health import HealthServer
from chassis.metrics import open_registry
from chassis.serving import open_bus, rpc_server
from services.auth.parts import Parts
from services.auth.settings import Settings

SCHEMA_TIMEOUT_S = 120.0


async def serve(life: lifecycle.Lifecycle) -> None:
    """Runs until the process is asked to stop."""
    own = settings.load(Settings)
    telemetry.configure_logging(service=own.service_name, replica=own.replica, level=own.log_level)
    log, registry = structlog.get_logger(), open_registry(own.config_path)
    tracer = telemetry.Tracer(service=own.service_name, replica=own.replica, otlp_endpoint=own.otlp_endpoint)
    pool = await db.open_pool(own.database_url, role="auth")
    parts = Parts(settings=own, pool=pool, log=log)
    registry.register(parts.collector())
    registry.register(ConfigCollector(parts.config_state))
    services = [parts.server.service()]
    server = rpc_server(own, services=services, tracer=tracer, registry=registry)
    health = HealthServer(bind=own.metrics_bind, registry=registry, ready=parts.not_ready)
    await parts.load_config(life)
    await health.start()
    await db.wait_for_schema(pool, service="auth", timeout_s=SCHEMA_TIMEOUT_S)
    bus = await open_bus(own, log)
    parts.start(life, bus)
    log.info("serving", grpc=await server.start())
    parts.is_serving = True
    await life.stopping.wait()
    parts.is_serving = False
    await server.leave(*life.drain_times(own))
    await life.end()
    await parts.authorizer.close()
    await bus.close()
    await pool.close()
    await health.stop()
    tracer.close()


def main() -> None:
    """The process."""
    lifecycle.run(serve)


if __name__ == "__main__":
    main()
