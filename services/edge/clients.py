"""Edge's pipes to the owners, one for each of their services, started and closed together."""

from google.protobuf.descriptor import ServiceDescriptor

from chassis.pipe import PipeClient
from chassis.telemetry import Tracer
from chassis.tls import Certificates
from services.edge.settings import Settings
from tollbridge.auth.v1 import auth_pb2
from tollbridge.billing.v1 import billing_pb2, claims_pb2, payments_pb2, statements_pb2
from tollbridge.router.v1 import router_pb2
from tollbridge.tasks.v1 import tasks_pb2


class Clients:
    """The four owners as edge reaches them."""

    def __init__(self, *, settings: Settings, tracer: Tracer) -> None:
        def pipe(descriptor: ServiceDescriptor, addresses: str) -> PipeClient:
            return PipeClient(
                descriptor=descriptor, addresses=addresses, token=settings.service_token, tracer=tracer, tls=tls
            )

        tls = Certificates.of(settings)

        self.auth = pipe(auth_pb2.DESCRIPTOR.services_by_name["AuthService"], settings.auth_addresses)
        self.router = pipe(router_pb2.DESCRIPTOR.services_by_name["RouterService"], settings.router_addresses)
        self.billing = pipe(billing_pb2.DESCRIPTOR.services_by_name["BillingService"], settings.billing_addresses)
        self.claims = pipe(claims_pb2.DESCRIPTOR.services_by_name["ClaimService"], settings.billing_addresses)
        self.payments = pipe(payments_pb2.DESCRIPTOR.services_by_name["PaymentService"], settings.billing_addresses)
        statements = statements_pb2.DESCRIPTOR.services_by_name["StatementService"]
        self.statements = pipe(statements, settings.billing_addresses)
        self.tasks = pipe(tasks_pb2.DESCRIPTOR.services_by_name["TasksService"], settings.tasks_addresses)

    async def start(self) -> None:
        """Begins to connect; services start in any order."""
        for pipe in self._all():
            await pipe.start()

    async def close(self) -> None:
        """Ends the streams."""
        for pipe in self._all():
            await pipe.close()

    def _all(self) -> tuple[PipeClient, ...]:
        return (self.auth, self.router, self.billing, self.claims, self.payments, self.statements, self.tasks)
