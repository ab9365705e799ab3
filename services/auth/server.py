"""Auth's gRPC face: convert, one call, convert back. Each method names its callers."""

import hashlib
from collections.abc import Awaitable, Callable

from google.protobuf.message import Message

from chassis.config_state import ConfigState, config_state_handler
from chassis.errors import Code, TollbridgeError
from chassis.ids import canonical
from chassis.rpc import CallContext, Handler, RpcService
from services.auth.audit import AuditLog
from services.auth.audit_server import AuditServer
from services.auth.authorize import Authorizer
from services.auth.customers import Customer, Status
from services.auth.directory import Call, Directory
from services.auth.key_terms import ApiKey, KeyTerms
from services.auth.limit_desk import LimitDesk
from services.auth.limit_server import LimitServer
from services.auth.limits import AS_THE_PLAN, Limits
from services.auth.refusal_server import RefusalServer
from services.auth.refusals import Refusals
from services.auth.spend_caps import LIFTED, PERIODS, Lifted, SpendCap
from tollbridge.auth.v1 import auth_pb2 as pb

OPERATORS = frozenset({"edge", "cli"})
"""Who acts for operators and for customers managing their own keys."""
SUSPENDERS = OPERATORS | {"billing"}
"""Billing suspends whoever had a payment taken back."""
GATES = frozenset({"edge", "tasks", "teams"})
"""Who lets requests in; `teams` are other teams that call providers by themselves."""

_STATUS_TO_WIRE = {
    Status.ACTIVE: pb.CUSTOMER_STATUS_ACTIVE,
    Status.SUSPENDED: pb.CUSTOMER_STATUS_SUSPENDED,
    Status.BANNED: pb.CUSTOMER_STATUS_BANNED,
}
_STATUS_FROM_WIRE = {wire: status for status, wire in _STATUS_TO_WIRE.items()}


class AuthServer:
    """The handlers."""

    def __init__(
        self,
        *,
        authorizer: Authorizer,
        directory: Directory,
        limit_desk: LimitDesk,
        audit: AuditLog,
        refusals: Refusals,
        plan_id: Callable[[str], str],
        config_state: Callable[[], ConfigState],
    ) -> None:
        self._authorizer = authorizer
        self._directory = directory
        self._limits = LimitServer(desk=limit_desk)
        self._audit = AuditServer(log=audit)
        self._refusals = RefusalServer(refusals=refusals)
        self._plan_id = plan_id
        self._config_state = config_state

    def service(self) -> RpcService:
        """What the RPC server is given."""

        def handler(run: Callable[..., Awaitable[Message]], callers: frozenset[str]) -> Handler:
            return Handler(run=run, callers=callers)

        return RpcService(
            descriptor=pb.DESCRIPTOR.services_by_name["AuthService"],
            handlers={
                "Authorize": handler(self.authorize, GATES),
                "CreateCustomer": handler(self.create_customer, OPERATORS),
                "GetCustomer": handler(self.get_customer, SUSPENDERS),
                "UpdateCustomer": handler(self.update_customer, SUSPENDERS),
                "ListCustomers": handler(self.list_customers, OPERATORS),
                "CreateKey": handler(self.create_key, OPERATORS),
                "ListKeys": handler(self.list_keys, OPERATORS),
                "RevokeKey": handler(self.revoke_key, OPERATORS),
                **self._limits.handlers(GATES),
                **self._audit.handlers(OPERATORS),
                **self._refusals.handlers(OPERATORS),
                "GetConfigState": config_state_handler(pb.GetConfigStateResponse, self._config_state, OPERATORS),
            },
        )

    async def authorize(self, request: pb.AuthorizeRequest, _: CallContext) -> pb.AuthorizeResponse:
        grant = await self._authorizer.authorize(api_key=request.api_key, client_ip=request.client_ip)
        return pb.AuthorizeResponse(
            customer_id=grant.customer_id,
            key_id=grant.key_id,
            plan=grant.plan,
            limits=_limits_to_wire(grant.limits),
            own_limits=_limits_to_wire(grant.own_limits) if grant.own_limits != AS_THE_PLAN else None,
            models=grant.models,
            spend_cap=_cap_to_wire(grant.spend_cap),
            customer_spend_cap=_cap_to_wire(grant.customer_spend_cap),
            keep_ms=grant.keep_ms,
        )

    async def create_customer(self, request: pb.CreateCustomerRequest, _: CallContext) -> pb.CreateCustomerResponse:
        try:
            customer = await self._directory.create_customer(
                _call(request, request.request_id),
                name=request.name,
                email=request.email,
                plan=request.plan,
                wished_id=_id_or_empty(request.customer_id, "customer_id"),
                spend_cap=_cap_from_wire(request.spend_cap) if request.HasField("spend_cap") else None,
            )
        except ValueError as error:
            raise _invalid(error) from error
        return pb.CreateCustomerResponse(customer=self._customer(customer))

    async def get_customer(self, request: pb.GetCustomerRequest, _: CallContext) -> pb.GetCustomerResponse:
        customer = await self._directory.customer(_id_or_empty(request.customer_id, "customer_id"))
        return pb.GetCustomerResponse(customer=self._customer(customer))

    async def update_customer(self, request: pb.UpdateCustomerRequest, _: CallContext) -> pb.UpdateCustomerResponse:
        try:
            spend_cap = _new_cap(request)
        except ValueError as error:
            raise _invalid(error) from error
        customer = await self._directory.update_customer(
            _call(request, request.request_id),
            customer_id=canonical(request.customer_id, "customer_id"),
            plan=request.plan or None,
            status=_status_from_wire(request.status),
            spend_cap=spend_cap,
        )
        return pb.UpdateCustomerResponse(customer=self._customer(customer))

    async def list_customers(self, request: pb.ListCustomersRequest, _: CallContext) -> pb.ListCustomersResponse:
        after = _id_or_empty(request.after, "after") or None
        customers, has_more = await self._directory.customers(after=after, limit=request.limit)
        return pb.ListCustomersResponse(customers=map(self._customer, customers), has_more=has_more)

    async def create_key(self, request: pb.CreateKeyRequest, _: CallContext) -> pb.CreateKeyResponse:
        try:
            terms = _terms(request)
        except ValueError as error:
            raise _invalid(error) from error
        key, secret = await self._directory.create_key(
            _call(request, request.request_id),
            customer_id=_id_or_empty(request.customer_id, "customer_id"),
            terms=terms,
            made_by=_id_or_empty(request.made_by, "made_by"),
        )
        return pb.CreateKeyResponse(key=_key_to_wire(key), secret=secret)

    async def list_keys(self, request: pb.ListKeysRequest, _: CallContext) -> pb.ListKeysResponse:
        keys, has_more = await self._directory.keys(
            customer_id=_id_or_empty(request.customer_id, "customer_id") or None,
            after=_id_or_empty(request.after, "after") or None,
            limit=request.limit,
        )
        return pb.ListKeysResponse(keys=map(_key_to_wire, keys), has_more=has_more)

    async def revoke_key(self, request: pb.RevokeKeyRequest, _: CallContext) -> pb.RevokeKeyResponse:
        key = await self._directory.revoke_key(
            key_id=canonical(request.key_id, "key_id"),
            customer_id=_id_or_empty(request.customer_id, "customer_id") or None,
            by_key_id=_id_or_empty(request.by_key_id, "by_key_id"),
        )
        return pb.RevokeKeyResponse(key=_key_to_wire(key))

    def _customer(self, customer: Customer) -> pb.Customer:
        return pb.Customer(
            id=customer.id,
            name=customer.name,
            email=customer.email,
            plan=self._plan_id(customer.plan),
            status=_STATUS_TO_WIRE[customer.status],
            created_at_us=customer.created_at_us,
            spend_cap=_cap_to_wire(customer.spend_cap),
        )


def _call(request: Message, request_id: str) -> Call:
    if "\0" in request_id or not 1 <= len(request_id) <= 200:
        raise TollbridgeError(
            Code.INVALID_REQUEST, "request_id is 1 to 200 characters.", details={"param": "request_id"}
        )
    fingerprint = hashlib.sha256(request.SerializeToString(deterministic=True)).digest()
    return Call(request_id=request_id, fingerprint=fingerprint)


def _terms(request: pb.CreateKeyRequest) -> KeyTerms:
    limits = request.limits
    return KeyTerms(
        name=request.name,
        models=tuple(request.models),
        overrides=Limits(
            requests_per_minute=limits.requests_per_minute,
            tokens_per_minute=limits.tokens_per_minute,
            concurrent=limits.concurrent,
        ),
        spend_cap=_cap_from_wire(request.spend_cap) if request.HasField("spend_cap") else None,
        allowed_ips=tuple(request.allowed_ips),
        expires_at_us=request.expires_at_us,
    )


def _key_to_wire(key: ApiKey) -> pb.ApiKey:
    return pb.ApiKey(
        id=key.id,
        customer_id=key.customer_id,
        name=key.terms.name,
        prefix=key.shown_prefix,
        models=key.terms.models,
        limits=_limits_to_wire(key.terms.overrides),
        spend_cap=_cap_to_wire(key.terms.spend_cap),
        allowed_ips=key.terms.allowed_ips,
        expires_at_us=key.terms.expires_at_us,
        created_at_us=key.created_at_us,
        revoked_at_us=key.revoked_at_us,
        made_by=key.made_by,
    )


def _limits_to_wire(limits: Limits) -> pb.Limits:
    return pb.Limits(
        requests_per_minute=limits.requests_per_minute,
        tokens_per_minute=limits.tokens_per_minute,
        concurrent=limits.concurrent,
        scope=limits.scope,
    )


def _cap_to_wire(cap: SpendCap | None) -> pb.SpendCap | None:
    return None if cap is None else pb.SpendCap(amount_nano_usd=cap.amount_nano_usd, per=cap.per)


def _cap_from_wire(cap: pb.SpendCap) -> SpendCap:
    for period in PERIODS:
        if cap.per == period:
            return SpendCap(amount_nano_usd=cap.amount_nano_usd, per=period)
    raise ValueError("spend_cap.per is day, month or total")


def _new_cap(request: pb.UpdateCustomerRequest) -> SpendCap | Lifted | None:
    if not request.HasField("spend_cap"):
        return LIFTED if request.lifts_spend_cap else None
    if request.lifts_spend_cap:
        raise ValueError("spend_cap is either set or lifted")
    return _cap_from_wire(request.spend_cap)


def _status_from_wire(status: pb.CustomerStatus.ValueType) -> Status | None:
    if status == pb.CUSTOMER_STATUS_UNSPECIFIED:
        return None
    if status not in _STATUS_FROM_WIRE:
        raise TollbridgeError(Code.INVALID_REQUEST, "There is no such status.", details={"param": "status"})
    return _STATUS_FROM_WIRE[status]


def _id_or_empty(text: str, param: str) -> str:
    return canonical(text, param) if text else ""


def _invalid(error: ValueError) -> TollbridgeError:
    """Values say what is wrong with them and begin with their name."""
    message = str(error)
    return TollbridgeError(Code.INVALID_REQUEST, message, details={"param": message.partition(" ")[0]})
