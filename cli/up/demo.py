"""Helper process: makes the demo customer, its first credit and its key, and prints the key as JSON.

The demo customer is the default customer and starts with 5 USD, or with the welcome credit where that is more. Run
again after a crash half-way, it completes what is missing; only the key is made anew, because its secret is shown but
once. In containers nobody else remembers it: there a file does, and a second run only shows what it says.
"""

import argparse
import asyncio
import contextlib
import json
import os
import sys
import uuid
from pathlib import Path

from google.protobuf.descriptor import ServiceDescriptor

from chassis.errors import TollbridgeError
from chassis.pipe import PipeClient
from chassis.settings import ServiceSettings, SettingsError, load
from chassis.telemetry import Tracer
from chassis.tls import Certificates
from tollbridge.auth.v1 import auth_pb2
from tollbridge.billing.v1 import billing_pb2

START_NANO_USD = 5_000_000_000
TIMEOUT_S = 10.0


async def make_demo(*, auth: PipeClient, billing: PipeClient, customer_id: str, plan: str) -> str:
    """Returns the new demo key."""
    await auth.call(
        "CreateCustomer",
        auth_pb2.CreateCustomerRequest(
            request_id=_fixed_id("customer", customer_id), name="demo", plan=plan, customer_id=customer_id
        ),
        auth_pb2.CreateCustomerResponse,
        timeout_s=TIMEOUT_S,
    )
    opened = await billing.call(
        "OpenAccount",
        billing_pb2.OpenAccountRequest(customer_id=customer_id),
        billing_pb2.OpenAccountResponse,
        timeout_s=TIMEOUT_S,
    )
    missing = START_NANO_USD - opened.balance.balance_nano_usd
    if missing > 0:
        await billing.call(
            "AdjustCredit",
            billing_pb2.AdjustCreditRequest(
                request_id=_fixed_id("credit", customer_id),
                customer_id=customer_id,
                amount_nano_usd=missing,
                reason="demo credit",
            ),
            billing_pb2.AdjustCreditResponse,
            timeout_s=TIMEOUT_S,
        )
    made = await auth.call(
        "CreateKey",
        auth_pb2.CreateKeyRequest(request_id=str(uuid.uuid4()), customer_id=customer_id, name="demo"),
        auth_pb2.CreateKeyResponse,
        timeout_s=TIMEOUT_S,
    )
    return made.secret


def _fixed_id(purpose: str, customer_id: str) -> str:
    """The same call always has the same id, so that repeating it changes nothing."""
    return str(uuid.uuid5(uuid.UUID(customer_id), purpose))


async def _run(settings: ServiceSettings, customer_id: str, plan: str) -> str:
    tracer = Tracer(service="cli", replica="0", otlp_endpoint="")
    auth = _client(auth_pb2.DESCRIPTOR.services_by_name["AuthService"], settings.auth_addresses, settings, tracer)
    billing = _client(
        billing_pb2.DESCRIPTOR.services_by_name["BillingService"], settings.billing_addresses, settings, tracer
    )
    await auth.start()
    await billing.start()
    try:
        return await make_demo(auth=auth, billing=billing, customer_id=customer_id, plan=plan)
    finally:
        await auth.close()
        await billing.close()


def _client(descriptor: ServiceDescriptor, addresses: str, settings: ServiceSettings, tracer: Tracer) -> PipeClient:
    return PipeClient(
        descriptor=descriptor,
        addresses=addresses,
        token=settings.service_token,
        tracer=tracer,
        tls=Certificates.of(settings),
    )


def _remembered(file: Path) -> str:
    with contextlib.suppress(FileNotFoundError):
        return str(json.loads(file.read_text())["demo_key"])
    return ""


def _remember(file: Path, key: str) -> None:
    new = file.with_name(file.name + ".new")
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as handle:
        handle.write(json.dumps({"demo_key": key}) + "\n")
    new.replace(file)


def main() -> None:
    """`python -m cli.up.demo [--plan PLAN] [--keep FILE] [--base-url URL]`.

    Addresses, token and customer come from the environment; where that names no customer, none is wanted.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--plan", default="")
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--base-url", default="")
    asked = parser.parse_args()
    customer = os.environ.get("TOLLBRIDGE_DEFAULT_CUSTOMER_ID", "")
    if not customer:
        return
    key = _remembered(asked.keep) if asked.keep else ""
    if not key:
        try:
            key = asyncio.run(_run(load(ServiceSettings), customer, asked.plan))
        except (TollbridgeError, SettingsError) as error:
            sys.exit(f"the demo customer can't be made: {error}")
        if asked.keep:
            _remember(asked.keep, key)
    print(json.dumps(({"base_url": asked.base_url} if asked.base_url else {}) | {"demo_key": key}))


if __name__ == "__main__":
    main()
