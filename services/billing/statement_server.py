"""gRPC in for statements: each method converts, makes one call, and converts back."""

from chassis.rpc import CallContext, Handler, RpcService
from services.billing.receipt_keys import ReceiptKeys
from tollbridge.billing.v1 import statements_pb2 as pb

OPERATORS = frozenset({"edge", "cli"})


class StatementServer:
    """The methods of StatementService."""

    def __init__(self, *, keys: ReceiptKeys) -> None:
        self._keys = keys

    def service(self) -> RpcService:
        """Every method with those who may call it; all but one read."""
        handlers = {
            "ListReceiptKeys": Handler(self.list_receipt_keys, OPERATORS),
        }
        return RpcService(descriptor=pb.DESCRIPTOR.services_by_name["StatementService"], handlers=handlers)

    async def list_receipt_keys(
        self, _request: pb.ListReceiptKeysRequest, _: CallContext
    ) -> pb.ListReceiptKeysResponse:
        keys = [
            pb.ReceiptKey(id=listed.key.id, public_key=listed.key.raw, since_us=listed.since_us)
            for listed in await self._keys.listed()
        ]
        return pb.ListReceiptKeysResponse(keys=keys)
