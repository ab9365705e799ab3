"""What cannot be a customer's id is refused by name before any SQL sees it."""

import pytest

from chassis.errors import Code, TollbridgeError
from chassis.rpc import CallContext
from services.billing.alerts.at_rest import AtRestKeys
from services.billing.alerts.balance_alerts import BalanceAlerts
from services.billing.receipts.receipt_keys import ReceiptKeys
from services.billing.receipts.usage_report import UsageReport
from services.billing.statement_server import StatementServer
from tests.unit.billing.bank import PostgresBank
from tollbridge.billing.v1 import statements_pb2 as pb

CALL = CallContext(caller="edge", timeout_s=5, traceparent="")


@pytest.mark.parametrize("customer_id", ["\x00", "a\x00b", "two words", "c" * 65])
@pytest.mark.parametrize("method", ["sum_usage", "get_balance_alert", "set_balance_alert"])
def test_a_customer_id_that_is_none_is_refused_by_name(bank: PostgresBank, method: str, customer_id: str) -> None:
    """INVALID_REQUEST with `param`, where PostgreSQL would fail on the NUL."""
    server = StatementServer(
        keys=ReceiptKeys(pool=bank.pool, own=None),
        usage=UsageReport(pool=bank.pool),
        alerts=BalanceAlerts(pool=bank.pool, keys=AtRestKeys({}), config=lambda: pytest.fail("no alert is looked at")),
    )
    requests = {
        "sum_usage": pb.SumUsageRequest(customer_id=customer_id, from_us=0, until_us=1, limit=1),
        "get_balance_alert": pb.GetBalanceAlertRequest(customer_id=customer_id),
        "set_balance_alert": pb.SetBalanceAlertRequest(customer_id=customer_id),
    }
    with pytest.raises(TollbridgeError) as caught:
        bank.run(getattr(server, method)(requests[method], CALL))
    assert caught.value.code is Code.INVALID_REQUEST
    assert caught.value.details["param"] == "customer_id"
