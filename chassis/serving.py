"""The gRPC server of a service as its settings have it: where it listens, who may call, whether it shares its port."""

from collections.abc import Sequence

from prometheus_client import CollectorRegistry

from chassis.rpc import RpcServer, RpcService
from chassis.settings import ServiceSettings, SettingsError
from chassis.telemetry import Tracer


def parse_tokens(text: str) -> dict[str, str]:
    """Reads "edge:<secret>,cli:<secret>"; raises SettingsError, which shows no secret. Empty: nobody may call."""
    tokens: dict[str, str] = {}
    for entry in filter(None, (part.strip() for part in text.split(","))):
        name, _, secret = entry.partition(":")
        if not name or not secret:
            raise SettingsError(["service tokens must be <name>:<secret>, separated by commas"])
        tokens[name] = secret
    return tokens


def rpc_server(
    settings: ServiceSettings, *, services: Sequence[RpcService], tracer: Tracer, registry: CollectorRegistry
) -> RpcServer:
    """The server, not started. Raises SettingsError."""
    return RpcServer(
        services=services,
        bind=settings.grpc_bind,
        tokens=parse_tokens(settings.service_tokens),
        tracer=tracer,
        registry=registry,
        reuse_port=settings.grpc_reuse_port,
    )
