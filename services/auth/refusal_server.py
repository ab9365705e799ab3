"""The gRPC face of the counts of refused requests: convert, one call, convert back."""

from chassis.errors import Code, TollbridgeError
from chassis.ids import canonical, uuid_of
from chassis.rpc import CallContext, Handler
from services.auth.refusal_store import Refused, Wanted
from services.auth.refusals import Refusals
from tollbridge.auth.v1 import auth_pb2 as pb

MOST_COUNTS = 1000
MOST = 1 << 50
_CODES = frozenset(code.value for code in Code)


class RefusalServer:
    """The handlers."""

    def __init__(self, *, refusals: Refusals) -> None:
        self._refusals = refusals

    def handlers(self, callers: frozenset[str]) -> dict[str, Handler]:
        """By method's name."""
        return {
            "RecordRefusals": Handler(run=self.record_refusals, callers=callers),
            "ListRefusals": Handler(run=self.list_refusals, callers=callers),
        }

    async def record_refusals(self, request: pb.RecordRefusalsRequest, _: CallContext) -> pb.RecordRefusalsResponse:
        if len(request.counts) > MOST_COUNTS:
            raise _invalid("counts", f"are at most {MOST_COUNTS}")
        await self._refusals.record(uuid_of(request.spender, "spender"), [_refused(each) for each in request.counts])
        return pb.RecordRefusalsResponse()

    async def list_refusals(self, request: pb.ListRefusalsRequest, _: CallContext) -> pb.ListRefusalsResponse:
        found, has_more = await self._refusals.page(
            Wanted(
                after=_after(request.after),
                limit=request.limit,
                customer_id=canonical(request.customer_id, "customer_id") if request.customer_id else "",
                key_id=canonical(request.key_id, "key_id") if request.key_id else "",
                code=_code(request.code) if request.code else "",
                from_us=request.from_us,
                to_us=request.to_us,
            )
        )
        counts = [pb.RefusalCount(minute=a.minute, key_id=a.key_id, code=a.code, count=a.count) for a in found]
        return pb.ListRefusalsResponse(counts=counts, has_more=has_more)


def _refused(count: pb.RefusalCount) -> Refused:
    if not (0 <= count.minute <= MOST and 1 <= count.count <= MOST):
        raise _invalid("counts", "have a minute and more than none")
    key_id = canonical(count.key_id, "key_id") if count.key_id else ""
    return Refused(minute=count.minute, key_id=key_id, code=_code(count.code), count=count.count)


def _code(text: str) -> str:
    if text not in _CODES:
        raise _invalid("code", "is one of our codes")
    return text


def _after(text: str) -> tuple[int, str, str] | None:
    """`<minute>.<key id>.<code>`, as a row is named."""
    if not text:
        return None
    minute, _, rest = text.partition(".")
    key_id, _, code = rest.partition(".")
    if not (minute.isascii() and minute.isdigit() and len(minute) <= 12):
        raise _invalid("after", "is the id of a row")
    return int(minute), canonical(key_id, "after") if key_id else "", _code(code)


def _invalid(param: str, message: str) -> TollbridgeError:
    return TollbridgeError(Code.INVALID_REQUEST, f"{param} {message}.", details={"param": param})
