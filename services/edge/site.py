"""Which routes stand where: the public API below every surface, and edge's own pages outside the surfaces."""

from collections.abc import Callable, Mapping

from fastapi import Depends, FastAPI, Request
from prometheus_client import CollectorRegistry

from chassis.config_state import ConfigState
from services.edge.admin import audit, customers, figures, operations, refusals
from services.edge.admin import keys as admin_keys
from services.edge.admin.access import AdminAccess
from services.edge.app import new_fastapi
from services.edge.catalogue import Catalogue
from services.edge.clients import Clients
from services.edge.config import EdgeConfig
from services.edge.http.hot import hot_descriptions
from services.edge.http.json_http import Caller, Forget, Identify, context
from services.edge.http.limit_headers import LimitNote
from services.edge.idempotency.claims import Claims
from services.edge.limits.limits import Limits
from services.edge.openapi.document import Documents
from services.edge.paid.admission import Admission, api_key_of
from services.edge.paid.quote import Quotes
from services.edge.routes import (
    alerts,
    billing,
    documents,
    health,
    keys,
    models,
    quote,
    receipt_keys,
    requests,
    tasks,
    usage,
    webhooks,
)
from services.edge.routes import credits as credit
from services.edge.routes.health import DrainSwitch


def identify_with(admission: Admission, limits: Limits) -> Identify:
    """Finds out who sends a request, as the hot path does. What limits them is said in the answer."""

    async def identify(request: Request) -> Caller:
        authority = await admission.authorize(
            api_key=api_key_of(request.headers.raw),
            client_ip=context(request).client_ip,
            traceparent=context(request).traceparent,
        )
        context(request).told.key_id = authority.key_id
        if authority.limits is not None:
            context(request).told.note = LimitNote(limits, authority.limits)
        return Caller(
            customer_id=authority.customer_id,
            key_id=authority.key_id,
            models=authority.models,
            caps=authority.caps,
            limits=authority.limits,
        )

    return identify


def public_site(
    *,
    clients: Clients,
    admission: Admission,
    claims: Claims,
    limits: Limits,
    unsettled: requests.Unsettled,
    is_draining: Callable[[], bool] = lambda: False,
) -> FastAPI:
    """What FastAPI serves below every surface."""
    identify = identify_with(admission, limits)
    catalogue = Catalogue(router=clients.router)
    app = new_fastapi()
    app.include_router(models.routes(catalogue=catalogue, identify=identify))
    app.include_router(credit.routes(billing=clients.billing, identify=identify))
    app.include_router(billing.routes(payments=clients.payments, identify=identify))
    app.include_router(requests.routes(billing=clients.billing, identify=identify, unsettled=unsettled))
    app.include_router(alerts.routes(statements=clients.statements, identify=identify))
    app.include_router(usage.routes(statements=clients.statements, identify=identify))
    app.include_router(
        keys.routes(
            auth=clients.auth,
            billing=clients.billing,
            catalogue=catalogue,
            identify=identify,
            forget=admission.forget,
        )
    )
    app.include_router(
        tasks.routes(
            tasks=clients.tasks,
            claims=claims,
            limits=limits,
            catalogue=catalogue,
            identify=identify,
            is_draining=is_draining,
        )
    )
    app.include_router(quote.routes(quotes=Quotes(router=clients.router), catalogue=catalogue, identify=identify))
    return app


def own_site(
    *,
    clients: Clients,
    admin_token: Callable[[], str],
    name: str,
    edges: Callable[[], Mapping[str, ConfigState]],
    registry: CollectorRegistry,
    drain: DrainSwitch,
    unready: Callable[[], str | None],
    forget: Forget,
) -> FastAPI:
    """What FastAPI serves outside the surfaces: health, metrics and, behind the admin token, the admin API.

    `name` is this edge's among `edges`, which are all that run.
    """
    app = new_fastapi()
    app.add_middleware(audit.AuditedAnswers, auth=clients.auth)
    app.include_router(health.routes(router_client=clients.router, registry=registry, drain=drain, unready=unready))
    app.include_router(webhooks.routes(payments=clients.payments))
    app.include_router(receipt_keys.routes(statements=clients.statements))
    behind_token = [Depends(AdminAccess(token=admin_token)), Depends(audit.Audit(auth=clients.auth, edge=name))]
    for admin in (
        customers.routes(auth=clients.auth, billing=clients.billing, forget=forget),
        admin_keys.routes(
            auth=clients.auth, billing=clients.billing, catalogue=Catalogue(router=clients.router), forget=forget
        ),
        alerts.admin_routes(statements=clients.statements),
        operations.routes(clients=clients, drain=drain, edges=edges),
        figures.routes(registry=registry),
        audit.routes(auth=clients.auth),
        refusals.routes(auth=clients.auth),
    ):
        app.include_router(admin, prefix="/admin", dependencies=behind_token)
    return app


def describe(own: FastAPI, *, public: FastAPI, config: Callable[[], EdgeConfig]) -> None:
    """Adds to edge's own pages those that describe both sites and the hot path."""
    made = Documents(config=config, public=public, own=own, hot=hot_descriptions())
    own.include_router(documents.routes(documents=made))
