"""The gRPC server of a service as its settings have it: where it listens, who may call, whether it shares its port."""

from collections.abc import Sequence

from prometheus_client import CollectorRegistry

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
