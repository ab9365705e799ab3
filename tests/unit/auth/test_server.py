"""auth's gRPC face: rights, refusals and numbers."""

import uuid

import pytest

from chassis.errors import Code
from tests.unit.auth.replica import Replica, refused
from tollbridge.auth.v1 import auth_pb2 as pb


@pytest.mark.parametrize(
    ("method", "request_", "kind", "code"),
    [
        ("CreateCustomer", pb.CreateCustomerRequest(name="n"), pb.CreateCustomerResponse, Code.INVALID_REQUEST),
        (
            "CreateCustomer",
            pb.CreateCustomerRequest(request_id="x1"),
            pb.CreateCustomerResponse,
            Code.INVALID_REQUEST,
        ),
        (
            "CreateCustomer",
            pb.CreateCustomerRequest(request_id="x2", name="n", plan="none"),
            pb.CreateCustomerResponse,
            Code.INVALID_REQUEST,
        ),
        (
            "CreateKey",
            pb.CreateKeyRequest(request_id="x3", customer_id=str(uuid.uuid4())),
            pb.CreateKeyResponse,
            Code.NOT_FOUND,
        ),
        (
            "CreateKey",
            pb.CreateKeyRequest(request_id="x4", customer_id="me"),
            pb.CreateKeyResponse,
            Code.INVALID_REQUEST,
        ),
        (
            "CreateKey",
            pb.CreateKeyRequest(request_id="x5", allowed_ips=["nowhere"]),
            pb.CreateKeyResponse,
            Code.INVALID_REQUEST,
        ),
        (
            "CreateKey",
            pb.CreateKeyRequest(request_id="x6", limits=pb.Limits(concurrent=-1)),
            pb.CreateKeyResponse,
            Code.INVALID_REQUEST,
        ),
        ("ListKeys", pb.ListKeysRequest(limit=201), pb.ListKeysResponse, Code.INVALID_REQUEST),
    ],
)
async def test_what_can_not_be_is_refused_with_its_code(replica: Replica, method: str, request_, kind, code: Code):
    """Never as an internal error."""
    assert await refused(replica.call(method, request_, kind)) is code


async def test_each_method_has_its_callers(replica: Replica):
    """tasks lets requests in but makes no keys; billing has no business here."""
    create = pb.CreateKeyRequest(request_id="y")
    assert await refused(replica.call("CreateKey", create, pb.CreateKeyResponse, caller="tasks")) is (
        Code.PERMISSION_DENIED
    )
    ask = pb.AuthorizeRequest(api_key="x")
    for caller, code in (("billing", Code.PERMISSION_DENIED), ("tasks", Code.INVALID_API_KEY)):
        assert await refused(replica.call("Authorize", ask, pb.AuthorizeResponse, caller=caller)) is code


async def test_a_replica_shows_its_numbers(replica: Replica):
    """Asked and looked up, so that the share of kept answers can be read."""
    customer = await replica.new_customer()
    made = await replica.new_key(customer_id=customer.id)
    for _ in range(3):
        await replica.authorize(made.secret)
    samples = {s.name: s.value for metric in replica.parts.collector().collect() for s in metric.samples}
    assert samples["tollbridge_auth_keys_asked_total"] > samples["tollbridge_auth_look_ups_total"] > 0
    assert samples["tollbridge_config_refused"] == 0
