"""gRPC in for statements: each method converts, makes one call, and converts back."""

from chassis.errors import Code, TollbridgeError
from chassis.rpc import CallContext, Handler, RpcService
from services.billing import charges
from services.billing.alerts.alert_store import Alert
from services.billing.alerts.balance_alerts import BalanceAlerts
from services.billing.ledger import MAX_AMOUNT
from services.billing.receipts.receipt_keys import ReceiptKeys
from services.billing.receipts.usage_report import Group, Question, UsageReport
from tollbridge.billing.v1 import statements_pb2 as pb

OPERATORS = frozenset({"edge", "cli"})
MAX_TEXT = 512

_GROUPS = {
    pb.USAGE_GROUP_MODEL: Group.MODEL,
    pb.USAGE_GROUP_KEY: Group.KEY,
    pb.USAGE_GROUP_DAY: Group.DAY,
    pb.USAGE_GROUP_CUSTOMER: Group.CUSTOMER,
}


class StatementServer:
    """The methods of StatementService."""

    def __init__(self, *, keys: ReceiptKeys, usage: UsageReport, alerts: BalanceAlerts) -> None:
        self._keys = keys
        self._alerts = alerts
        self._usage = usage

    def service(self) -> RpcService:
        """Every method with those who may call it; all but one read."""
        handlers = {
            "ListReceiptKeys": Handler(self.list_receipt_keys, OPERATORS),
            "GetBalanceAlert": Handler(self.get_balance_alert, OPERATORS),
            "SetBalanceAlert": Handler(self.set_balance_alert, OPERATORS),
            "SumUsage": Handler(self.sum_usage, OPERATORS),
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

    async def sum_usage(self, request: pb.SumUsageRequest, _: CallContext) -> pb.SumUsageResponse:
        question = Question(
            customer_id=_customer(request.customer_id) if request.customer_id else "",
            key_id=_text(request.key_id, "key_id"),
            model=_text(request.model, "model"),
            from_us=request.from_us,
            until_us=request.until_us,
            group_by=_GROUPS.get(request.group_by, Group.MODEL),
            after=_text(request.after, "after") if request.HasField("after") else None,
        )
        sums, has_more = await self._usage.page(question, limit=request.limit)
        shown = [
            pb.UsageSum(
                group=each.group,
                requests=each.requests,
                prompt_tokens=each.prompt_tokens,
                completion_tokens=each.completion_tokens,
                charge_nano_usd=each.charge_nano_usd,
            )
            for each in sums
        ]
        return pb.SumUsageResponse(sums=shown, has_more=has_more)

    async def get_balance_alert(self, request: pb.GetBalanceAlertRequest, _: CallContext) -> pb.GetBalanceAlertResponse:
        return pb.GetBalanceAlertResponse(alert=_alert(await self._alerts.get(_customer(request.customer_id))))

    async def set_balance_alert(self, request: pb.SetBalanceAlertRequest, _: CallContext) -> pb.SetBalanceAlertResponse:
        low = request.low_nano_usd if request.HasField("low_nano_usd") else None
        if low is not None and not 0 <= low <= MAX_AMOUNT:
            raise TollbridgeError(Code.INVALID_REQUEST, "low_balance is out of range", details={"param": "low_balance"})
        alert, secret = await self._alerts.set(
            _customer(request.customer_id), low_nano_usd=low, url=request.url, new_key=request.new_secret
        )
        return pb.SetBalanceAlertResponse(alert=_alert(alert), secret=secret)


def _alert(alert: Alert) -> pb.BalanceAlert:
    return pb.BalanceAlert(low_nano_usd=alert.low_nano_usd or 0, url=alert.url)


def _customer(text: str) -> str:
    if not charges.is_customer_id(text):
        raise TollbridgeError(
            Code.INVALID_REQUEST, "customer_id is missing or malformed", details={"param": "customer_id"}
        )
    return text


def _text(text: str, name: str) -> str:
    if len(text) > MAX_TEXT or "\x00" in text:
        message = f"{name} must have at most {MAX_TEXT} characters, and none of them NUL"
        raise TollbridgeError(Code.INVALID_REQUEST, message, details={"param": name})
    return text
