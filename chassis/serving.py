"""How a service is reached, and reaches the bus, as its settings have it."""

from collections.abc import Sequence

from prometheus_client import CollectorRegistry

from chassis.bus import Bus, Log
from chassis.callers import parse_tokens
from chassis.rpc import RpcServer, RpcService
from chassis.settings import ServiceSettings
from chassis.telemetry import Tracer
from chassis.tls import Certificates


def rpc_server(
    settings: ServiceSettings, *, services: Sequence[RpcService], tracer: Tracer, registry: CollectorRegistry
) -> RpcServer:
    """The server, not started. Raises SettingsError."""
    return RpcServer(
        services=services,
        bind=settings.grpc_bind,
        tokens=parse_tokens(settings.service_tokens, certified=bool(settings.tls_dir)),
        tracer=tracer,
        registry=registry,
        reuse_port=settings.grpc_reuse_port,
        tls=Certificates.of(settings),
    )


async def open_bus(settings: ServiceSettings, log: Log) -> Bus:
    """The process's bus, which connects in the background. Raises SettingsError."""
    tls = Certificates.of(settings)
    return await Bus.connect(
        settings.nats_url, name=settings.service_name, log=log, replicas=settings.stream_replicas, tls=tls
    )
