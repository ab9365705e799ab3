"""One billing process: settings, objects by keyword, and the order in which they start and stop."""

import structlog

from chassis import db, lifecycle, settings, telemetry
from chassis.health import HealthServer
from chassis.metrics import open_registry
from chassis.serving import open_bus, rpc_server
from services.billing import events
from services.billing.parts import Parts, asking, clients
from services.billing.settings import Settings


async def serve(life: lifecycle.Lifecycle) -> None:
    """Runs until the process is asked to stop."""
    own = settings.load(Settings)
    telemetry.configure_logging(service=own.service_name, replica=own.replica, level=own.log_level)
    log, registry = structlog.get_logger(), open_registry(own.config_path)
    tracer = telemetry.Tracer(service=own.service_name, replica=own.replica, otlp_endpoint=own.otlp_endpoint)
    pool = await db.service_pool(own, role="billing")
    router, auth = clients(own, tracer)
    parts = Parts(settings=own, pool=pool, others=asking(router, auth), tracer=tracer, registry=registry, log=log)
    await parts.config.load_first()
    health = HealthServer(bind=own.metrics_bind, registry=registry, ready=parts.not_ready)
    server = rpc_server(own, services=parts.services(), tracer=tracer, registry=registry)
    await health.start()
    await router.start()
    await auth.start()
    await db.wait_for_schema(pool, service="billing", timeout_s=own.schema_wait_s)
    bus = await open_bus(own, log)
    await events.ensure_streams(bus, events.sized(own))
    for name, loop in parts.loops(bus).items():
        life.spawn(name, loop)
    log.info("serving", grpc=await server.start())
    parts.is_serving = True
    await life.stopping.wait()
    parts.is_serving = False
    await server.leave(*life.drain_times(own))
    await life.end()
    for part in (parts.grants, parts.capped_grants, router, auth, bus, pool):
        await part.close()
    await health.stop()
    tracer.close()


def main() -> None:
    """The process."""
    lifecycle.run(serve)


if __name__ == "__main__":
    main()
