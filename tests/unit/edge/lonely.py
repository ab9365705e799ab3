"""An edge's own pages where every owner is away: for tests of what edge says by itself."""

from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from chassis.telemetry import Tracer
from services.edge.clients import Clients
from services.edge.routes.health import DrainSwitch
from services.edge.settings import Settings
from services.edge.site import own_site

OFF = Tracer(service="edge", replica="0", otlp_endpoint="")
NOBODY = "127.0.0.1:1"


def lonely_settings(**binds: str) -> Settings:
    """Settings of an edge that reaches nobody."""
    return Settings(
        service_token="edge:e",
        auth_addresses=NOBODY,
        router_addresses=NOBODY,
        billing_addresses=NOBODY,
        tasks_addresses=NOBODY,
        **binds,
    )


def lonely_site(settings: Settings) -> FastAPI:
    """Its pages; the admin token is `admin`."""
    return own_site(
        clients=Clients(settings=settings, tracer=OFF),
        admin_token=lambda: "admin",
        name="machine/0",
        edges=dict,  # nobody asks here
        registry=CollectorRegistry(),
        drain=DrainSwitch(),
        unready=lambda: None,
        forget=lambda **_: None,
    )
