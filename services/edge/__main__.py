"""One edge process: settings, objects by keyword, and the order in which they start and stop."""

import asyncio

import structlog

from chassis import lifecycle, settings, telemetry
from chassis.health import HealthServer
from chassis.ids import uuid7
from chassis.metrics import open_registry
from chassis.serving import open_bus
from services.edge.http.uvicorn_server import HttpServer
from services.edge.parts import Parts, load_config
from services.edge.settings import Settings


async def serve(life: lifecycle.Lifecycle) -> None:
    """Runs until the process is asked to stop."""
    own = settings.load(Settings)
    telemetry.configure_logging(service=own.service_name, replica=own.replica, level=own.log_level)
    log, registry = structlog.get_logger(), open_registry(own.config_path)
    tracer = telemetry.Tracer(service=own.service_name, replica=own.replica, otlp_endpoint=own.otlp_endpoint)
    life.drain_limit_s = own.drain_announce_s + own.drain_grace_s + lifecycle.DRAIN_MARGIN_S
    config = await load_config(own, log)
    bus = await open_bus(own, log)
    parts = Parts(settings=own, configuration=config, incarnation=uuid7(), bus=bus, tracer=tracer, registry=registry)

    def is_leaving() -> bool:
        return parts.drain.draining and not life.in_haste

    health = HealthServer(bind=own.metrics_bind, registry=registry, ready=parts.unready)
    await parts.start(life)
    # Not before: on a shared port the kernel gives us our part from now on.
    http = HttpServer(app=parts.app, bind=own.http_bind, reuse_port=own.http_reuse_port, is_leaving=is_leaving)
    await health.start()
    serving = life.spawn("http", http.serve())
    log.info("serving", http=http.address)
    await life.stopping.wait()
    announce_s, grace_s = life.drain_times(own)
    parts.drain.draining = True
    await asyncio.sleep(announce_s)
    until_s = asyncio.get_running_loop().time() + grace_s
    http.stop(grace_s=grace_s)
    await serving
    await parts.end(grace_s=max(0.0, until_s - asyncio.get_running_loop().time()))
    await life.end()
    await parts.close()
    await health.stop()
    tracer.close()


def main() -> None:
    """The process."""
    lifecycle.run(serve)


if __name__ == "__main__":
    main()
