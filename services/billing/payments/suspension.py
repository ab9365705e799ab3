"""Suspending whoever had a payment taken back: auth does it, when billing asks."""

from collections.abc import Awaitable, Callable

from chassis.pipe import PipeClient
from tollbridge.auth.v1 import auth_pb2

TIMEOUT_S = 2.0

Suspend = Callable[[str, str], Awaitable[None]]
"""Suspends a customer for a cause, once. Raises TollbridgeError."""


def suspending(auth: PipeClient) -> Suspend:
    """By auth's RPCs."""

    async def suspend(customer_id: str, cause: str) -> None:
        """The cause is the call's id: who was reinstated since stays so. One who is banned stays banned."""
        found = await auth.call(
            "GetCustomer",
            auth_pb2.GetCustomerRequest(customer_id=customer_id),
            auth_pb2.GetCustomerResponse,
            timeout_s=TIMEOUT_S,
        )
        if found.customer.status == auth_pb2.CUSTOMER_STATUS_BANNED:
            return
        await auth.call(
            "UpdateCustomer",
            auth_pb2.UpdateCustomerRequest(
                request_id=cause, customer_id=customer_id, status=auth_pb2.CUSTOMER_STATUS_SUSPENDED
            ),
            auth_pb2.UpdateCustomerResponse,
            timeout_s=TIMEOUT_S,
        )

    return suspend
