"""How the closed error codes cross gRPC, both ways: google.rpc.Status in a trailer, and a Pipe's own Failure.

What reaches a caller is bounded in size, and gRPC's own texts, which name addresses, are replaced.
"""

from collections.abc import Mapping

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from chassis.errors import Code, TollbridgeError
from tollbridge.pipe.v1 import pipe_pb2

DOMAIN = "tollbridge"
STATUS_KEY = "grpc-status-details-bin"
MAX_TEXT, MAX_DETAILS = 1024, 16

_S = grpc.StatusCode
_CODES_BY_STATUS = {
    _S.INVALID_ARGUMENT: (Code.INVALID_REQUEST, Code.REQUEST_TOO_LARGE, Code.PROVIDER_REJECTED),
    _S.NOT_FOUND: (Code.NOT_FOUND, Code.MODEL_NOT_FOUND),
    _S.UNIMPLEMENTED: (Code.METHOD_NOT_ALLOWED,),
    _S.UNAUTHENTICATED: (Code.INVALID_API_KEY,),
    _S.PERMISSION_DENIED: (
        *(Code.PERMISSION_DENIED, Code.CUSTOMER_SUSPENDED, Code.ADDRESS_NOT_ALLOWED, Code.MODEL_NOT_ALLOWED),
    ),
    _S.FAILED_PRECONDITION: (
        *(Code.INSUFFICIENT_CREDITS, Code.SPEND_CAP_REACHED, Code.MAX_COST_EXCEEDED),
        *(Code.NOT_SETTLED, Code.PROVIDER_NOT_CONFIGURED),
    ),
    _S.ALREADY_EXISTS: (Code.IDEMPOTENCY_MISMATCH, Code.ALREADY_REFUNDED),
    _S.ABORTED: (Code.CONFLICT,),
    _S.RESOURCE_EXHAUSTED: (Code.OVERLOADED, Code.RATE_LIMIT_EXCEEDED, Code.CONCURRENCY_LIMIT_EXCEEDED),
    _S.UNAVAILABLE: (*(Code.UNAVAILABLE, Code.BALANCE_RESERVED, Code.PAYMENT_METHOD_UNAVAILABLE, Code.PROVIDER_ERROR),),
    _S.DEADLINE_EXCEEDED: (Code.DEADLINE_EXCEEDED,),
    _S.INTERNAL: (Code.INTERNAL,),
}
"""The first of each is what a failure of gRPC's own, without our details, is taken for."""
STATUS: Mapping[Code, grpc.StatusCode] = {code: status for status, codes in _CODES_BY_STATUS.items() for code in codes}
CODES: Mapping[str, Code] = {code.value: code for code in Code}


def status_of(error: TollbridgeError) -> status_pb2.Status:
    """The google.rpc.Status that carries the error: ErrorInfo, and RetryInfo when trying again can help. Bounded."""
    status = status_pb2.Status(code=STATUS[error.code].value[0], message=error.message[:MAX_TEXT])
    details = {key[:64]: value[:256] for key, value in list(error.details.items())[:MAX_DETAILS]}
    info = error_details_pb2.ErrorInfo(reason=error.code.value, domain=DOMAIN, metadata=details)
    status.details.add().Pack(info)
    if error.retry_after_s is not None:
        delay = Duration()
        delay.FromMilliseconds(round(error.retry_after_s * 1000))
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    return status


def error_of(error: grpc.aio.AioRpcError) -> TollbridgeError:
    """What a failed call meant: the server's own code, or the nearest one for gRPC's own failures."""
    raw = next((value for key, value in error.trailing_metadata() or () if key == STATUS_KEY), b"")
    status, info, retry = status_pb2.Status(), error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    status.ParseFromString(raw if isinstance(raw, bytes) else raw.encode())
    retry_after_s: float | None = None
    for detail in status.details:
        detail.Unpack(info)
        if detail.Unpack(retry):
            retry_after_s = retry.retry_delay.ToMilliseconds() / 1000
    if info.domain == DOMAIN and info.reason in CODES:
        code = CODES[info.reason]
        return TollbridgeError(code, status.message, details=info.metadata, retry_after_s=retry_after_s)
    code = _CODES_BY_STATUS.get(error.code(), (Code.INTERNAL,))[0]
    if code is Code.INVALID_API_KEY:  # a customer's, which only our own details can mean
        code = Code.PERMISSION_DENIED
    text = f"the call failed: {error.code().name.lower().replace('_', ' ')}"
    return TollbridgeError(code, text, retry_after_s=1 if code is Code.UNAVAILABLE else None)


def error_of_failure(failure: pipe_pb2.Failure) -> TollbridgeError:
    """The error that a Pipe's reply carries; a code that is not in our list (a newer server's) becomes INTERNAL."""
    code = CODES.get(failure.code, Code.INTERNAL)
    retry_after_s = failure.retry_after_s or None
    return TollbridgeError(code, failure.message, details=failure.details, retry_after_s=retry_after_s)


def failure_of(error: TollbridgeError) -> pipe_pb2.Failure:
    """The same error for a Pipe's reply. Bounded."""
    details = dict(list(error.details.items())[:MAX_DETAILS])
    return pipe_pb2.Failure(
        code=error.code.value, message=error.message[:MAX_TEXT], details=details, retry_after_s=error.retry_after_s or 0
    )
