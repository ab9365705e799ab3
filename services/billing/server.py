"""gRPC in: each method converts, makes one call, and converts back. Who may call what stands in `billing_service`."""

from collections.abc import Iterable, Sequence

from chassis.config_state import config_state_handler
from chassis.errors import Code, TollbridgeError
from chassis.ids import uuid_of
from chassis.rpc import CallContext, Handler, RpcService
from services.billing import charges
from services.billing.accounts import Accounts
from services.billing.config import BillingConfig
from services.billing.confirm import Asked, Confirmations
from services.billing.holding import cap_wire
from services.billing.holding.capped_grants import CappedGrants
from services.billing.holding.caps import CapAccount
from services.billing.holding.grants import Granted, Grants
from services.billing.holding.hold_store import Ask
from services.billing.holding.holds import HoldKind
from services.billing.holding.leases import FIRST_ID, LAST_ID, RENEW_IN_S, TTL_S, Leases, Page, Refused, Stated
from services.billing.ledger import MAX_AMOUNT, Account
from services.billing.live_config import LiveConfig
from services.billing.receipts.receipts import Receipts
from services.billing.settlement import Fate, Settlement
from tollbridge.billing.v1 import billing_pb2 as pb

EDGE, TASKS, CLI, TEAMS = "edge", "tasks", "cli", "teams"
EVERY_SERVICE = frozenset({EDGE, TASKS, CLI, TEAMS, "auth", "router", "billing"})
OPERATORS = frozenset({EDGE, CLI})
SPENDERS = frozenset({EDGE, TASKS})
MAX_LEASES = 10_000
MAX_KEYS = 1000
MAX_EVENTS = 500
MAX_TEXT = 200
MAX_REASON = 1000
LATEST_DEADLINE_US = 4_102_444_800_000_000
"""The year 2100: what is later was meant in another unit."""
REPLY_MARGIN_S = 0.3
"""A refusal must still reach the caller, so no wait uses up the whole deadline."""

_FATES = {
    Fate.WAITING: pb.EVENT_STATE_MISSING,
    Fate.COMMITTED: pb.EVENT_STATE_COMMITTED,
    Fate.DEAD_LETTERED: pb.EVENT_STATE_DEAD_LETTERED,
}


class BillingServer:
    """The methods of BillingService."""

    def __init__(
        self,
        *,
        accounts: Accounts,
        grants: Grants,
        capped_grants: CappedGrants,
        leases: Leases,
        settlement: Settlement,
        confirmations: Confirmations,
        receipts: Receipts,
        config: LiveConfig,
    ) -> None:
        self._accounts = accounts
        self._grants = grants
        self._capped_grants = capped_grants
        self._leases = leases
        self._settlement = settlement
        self._confirmations = confirmations
        self._receipts = receipts
        self._config = config

    def service(self) -> RpcService:
        """Every method with those who may call it; a call is safe to repeat by its own ids."""
        handlers = {
            "OpenAccount": Handler(self.open_account, OPERATORS),
            "GetBalance": Handler(self.get_balance, EVERY_SERVICE),
            "AdjustCredit": Handler(self.adjust_credit, OPERATORS),
            "GrantLease": Handler(self.grant_lease, SPENDERS),
            "StateLeases": Handler(self.state_leases, SPENDERS),
            "ReturnLease": Handler(self.return_lease, SPENDERS),
            "Hold": Handler(self.hold, frozenset({TASKS, TEAMS})),
            "ExtendHold": Handler(self.extend_hold, frozenset({TASKS, TEAMS})),
            "RecordUsage": Handler(self.record_usage, SPENDERS | {TEAMS}),
            "Confirm": Handler(self.confirm, SPENDERS),
            "GetReceipt": Handler(self.get_receipt, OPERATORS | {TEAMS}),
            "ListReceipts": Handler(self.list_receipts, OPERATORS),
            "Refund": Handler(self.refund, OPERATORS),
            "GetSpend": Handler(self.get_spend, OPERATORS),
            "GetConfigState": config_state_handler(pb.GetConfigStateResponse, self._config.state, OPERATORS),
        }
        return RpcService(descriptor=pb.DESCRIPTOR.services_by_name["BillingService"], handlers=handlers)

    async def open_account(self, request: pb.OpenAccountRequest, _: CallContext) -> pb.OpenAccountResponse:
        config: BillingConfig = self._config.current
        account = await self._accounts.open(
            _customer(request.customer_id), welcome_nano_usd=config.welcome_credit_nano_usd
        )
        return pb.OpenAccountResponse(balance=_balance(account))

    async def get_balance(self, request: pb.GetBalanceRequest, _: CallContext) -> pb.GetBalanceResponse:
        account = await self._accounts.read(_customer(request.customer_id))
        return pb.GetBalanceResponse(balance=_balance(account))

    async def adjust_credit(self, request: pb.AdjustCreditRequest, _: CallContext) -> pb.AdjustCreditResponse:
        transfer, account = await self._accounts.adjust(
            _customer(request.customer_id),
            request.amount_nano_usd,
            request_id=_text(request.request_id, "request_id", MAX_TEXT - len("adjustment:"), least=1),
            reason=_text(request.reason, "reason", MAX_REASON),
        )
        return pb.AdjustCreditResponse(transfer_id=str(transfer.id), balance=_balance(account))

    async def grant_lease(self, request: pb.GrantLeaseRequest, context: CallContext) -> pb.GrantLeaseResponse:
        ask = Ask(
            hold_id=uuid_of(request.hold_id, "hold_id"),
            customer_id=_customer(request.customer_id),
            kind=HoldKind.LEASE,
            spender=_text(request.spender, "spender", MAX_TEXT, least=1),
            amount_nano_usd=_amount(request.amount_nano_usd, "amount_nano_usd"),
            request_id=uuid_of(request.request_id, "request_id") if request.request_id else None,
            key_id=_text(request.key_id, "key_id", MAX_TEXT),
            replaces=uuid_of(request.replaces_hold_id, "replaces_hold_id") if request.replaces_hold_id else None,
            wish_nano_usd=self._wish(request),
            spare=request.spare,
        )
        if ask.spare and not ask.wish_nano_usd:
            raise _invalid("spare", "needs a wish, and leases that may be for more than one request")
        if not 0 <= request.least_nano_usd <= ask.amount_nano_usd:
            raise _invalid("least_nano_usd", "must be from 0 to amount_nano_usd")
        granted = await self._grant(ask, request.caps, least_nano_usd=request.least_nano_usd, context=context)
        return pb.GrantLeaseResponse(
            hold_id=request.hold_id,
            amount_nano_usd=granted.amount_nano_usd,
            ttl_s=TTL_S,
            available_nano_usd=granted.available_nano_usd,
        )

    def _wish(self, request: pb.GrantLeaseRequest) -> int:
        """What the spender wishes beyond its request, as far as leases may be larger than one."""
        if self._config.current.lease_chunk == "exact" or request.caps:
            return 0
        return _amount(request.wish_nano_usd, "wish_nano_usd", least=0)

    async def state_leases(self, request: pb.StateLeasesRequest, _: CallContext) -> pb.StateLeasesResponse:
        if len(request.leases) > MAX_LEASES:
            raise _invalid("leases", f"at most {MAX_LEASES} in a page")
        stated, refused = _stated(request.leases)
        page = Page(
            spender=_text(request.spender, "spender", MAX_TEXT, least=1),
            as_of=uuid_of(request.as_of, "as_of"),
            from_id=uuid_of(request.from_id, "from_id") if request.from_id else FIRST_ID,
            until_id=uuid_of(request.until_id, "until_id") if request.until_id else LAST_ID,
            spender_ended=request.spender_ended,
            leases=stated,
            refused=refused,
        )
        answer = await self._leases.state(page)
        return pb.StateLeasesResponse(
            renew_in_s=RENEW_IN_S,
            gone=[str(hold_id) for hold_id in answer.gone],
            refused=[pb.RefusedLease(hold_id=each.hold_id, reason=each.reason) for each in answer.refused],
        )

    async def return_lease(self, request: pb.ReturnLeaseRequest, _: CallContext) -> pb.ReturnLeaseResponse:
        await self._leases.give_back(hold_id=uuid_of(request.hold_id, "hold_id"), spender=request.spender)
        return pb.ReturnLeaseResponse()

    async def hold(self, request: pb.HoldRequest, context: CallContext) -> pb.HoldResponse:
        if request.kind not in {HoldKind.TASK, HoldKind.EXACT}:
            raise _invalid("kind", "must be task or exact")
        ask = Ask(
            hold_id=uuid_of(request.hold_id, "hold_id"),
            customer_id=_customer(request.customer_id),
            kind=HoldKind(request.kind),
            spender=context.caller,
            amount_nano_usd=_amount(request.amount_nano_usd, "amount_nano_usd"),
            request_id=uuid_of(request.request_id, "request_id") if request.request_id else None,
            key_id=_text(request.key_id, "key_id", MAX_TEXT),
            deadline_us=_deadline(request.deadline_us),
        )
        granted = await self._grant(ask, request.caps, context=context)
        return pb.HoldResponse(hold_id=request.hold_id, amount_nano_usd=granted.amount_nano_usd)

    async def _grant(
        self, ask: Ask, caps: Sequence[pb.SpendCap], *, least_nano_usd: int = 0, context: CallContext
    ) -> Granted:
        wait_s = context.timeout_s - REPLY_MARGIN_S
        if not caps:
            return await self._grants.grant(ask, least_nano_usd=least_nano_usd, wait_s=wait_s)
        bound_by = cap_wire.caps_of(caps, request_id=ask.request_id)
        return await self._capped_grants.grant(ask, caps=bound_by, least_nano_usd=least_nano_usd, wait_s=wait_s)

    async def extend_hold(self, request: pb.ExtendHoldRequest, _: CallContext) -> pb.ExtendHoldResponse:
        hold_id = uuid_of(request.hold_id, "hold_id")
        await self._leases.extend(hold_id=hold_id, deadline_us=_deadline(request.deadline_us))
        return pb.ExtendHoldResponse()

    async def record_usage(self, request: pb.RecordUsageRequest, _: CallContext) -> pb.RecordUsageResponse:
        if len(request.events) > MAX_EVENTS:
            raise _invalid("events", f"at most {MAX_EVENTS}")
        fates = await self._settlement.apply(list(request.events))
        return pb.RecordUsageResponse(states=[_FATES[fate] for fate in fates])

    async def confirm(self, request: pb.ConfirmRequest, _: CallContext) -> pb.ConfirmResponse:
        for name, many in (("keys", len(request.keys)), ("batch_ids", len(request.batch_ids))):
            if many > MAX_KEYS:
                raise _invalid(name, f"at most {MAX_KEYS}")
        asked = [
            Asked(
                request_id=uuid_of(key.request_id, "request_id"),
                kind=charges.KINDS.get(key.kind, ""),
                event_id=key.event_id,
            )
            for key in request.keys
        ]
        batch_ids = [uuid_of(batch_id, "batch_ids") for batch_id in request.batch_ids]
        return pb.ConfirmResponse(
            states=await self._confirmations.states(asked),
            batches_committed=await self._confirmations.batches(batch_ids),
        )

    async def get_receipt(self, request: pb.GetReceiptRequest, _: CallContext) -> pb.GetReceiptResponse:
        receipt = await self._receipts.get(
            uuid_of(request.request_id, "request_id"), customer_id=_customer_or_all(request.customer_id)
        )
        return pb.GetReceiptResponse(receipt=receipt)

    async def list_receipts(self, request: pb.ListReceiptsRequest, _: CallContext) -> pb.ListReceiptsResponse:
        receipts, has_more = await self._receipts.page(
            customer_id=_customer_or_all(request.customer_id),
            after=uuid_of(request.after, "after") if request.after else None,
            limit=request.limit,
            ended=_ended(request.ended),
        )
        return pb.ListReceiptsResponse(receipts=receipts, has_more=has_more)

    async def refund(self, request: pb.RefundRequest, _: CallContext) -> pb.RefundResponse:
        transfer, account = await self._accounts.refund(
            uuid_of(request.request_id, "request_id"),
            amount_nano_usd=_amount(request.amount_nano_usd, "amount_nano_usd", least=0),
            reason=_text(request.reason, "reason", MAX_REASON),
            call_id=_text(request.call_id, "call_id", MAX_TEXT),
        )
        return pb.RefundResponse(
            transfer_id=str(transfer.id), amount_nano_usd=transfer.amount_nano_usd, balance=_balance(account)
        )

    async def get_spend(self, request: pb.GetSpendRequest, _: CallContext) -> pb.GetSpendResponse:
        cap_ids = cap_wire.ids_of_now(request.caps)
        found = await self._accounts.caps(cap_ids)
        none = CapAccount(id="", cap_nano_usd=0)
        counted = [found.get(cap_id, none) for cap_id in cap_ids]
        return pb.GetSpendResponse(
            spends=[pb.Spend(spent_nano_usd=each.paid_nano_usd, held_nano_usd=each.held_nano_usd) for each in counted]
        )


def _balance(account: Account) -> pb.Balance:
    return pb.Balance(
        balance_nano_usd=account.posted_nano_usd,
        held_nano_usd=account.held_nano_usd,
        available_nano_usd=account.available_nano_usd,
        total_credits_nano_usd=account.credited_nano_usd,
        total_usage_nano_usd=account.used_nano_usd,
    )


def _stated(leases: Iterable[pb.LeaseStatement]) -> tuple[list[Stated], list[Refused]]:
    """What is said of each lease, and those of which it can't be: they keep no other from being renewed."""
    stated: list[Stated] = []
    refused: list[Refused] = []
    for lease in leases:
        try:
            one = Stated(
                hold_id=uuid_of(lease.hold_id, "hold_id"),
                open_nano_usd=_amount(lease.open_nano_usd, "open_nano_usd", least=0),
                spent_nano_usd=_amount(lease.spent_nano_usd, "spent_nano_usd", least=0),
                free_nano_usd=_amount(lease.free_nano_usd, "free_nano_usd", least=0),
                returned_nano_usd=_amount(lease.returned_nano_usd, "returned_nano_usd", least=0),
            )
        except TollbridgeError as error:
            refused.append(Refused(hold_id=lease.hold_id[:MAX_TEXT], reason=error.message))
        else:
            stated.append(one)
    return stated, refused


def _customer(text: str) -> str:
    if not charges.is_customer_id(text):
        raise _invalid("customer_id", "is missing or malformed")
    return text


def _customer_or_all(text: str) -> str:
    return _customer(text) if text else ""


def _amount(amount_nano_usd: int, name: str, *, least: int = 1) -> int:
    if not least <= amount_nano_usd <= MAX_AMOUNT:
        raise _invalid(name, f"must be from {least} to {MAX_AMOUNT}")
    return amount_nano_usd


def _deadline(deadline_us: int) -> int:
    if not 0 < deadline_us <= LATEST_DEADLINE_US:
        raise _invalid("deadline_us", "must be a time in microseconds since the epoch")
    return deadline_us


def _text(text: str, name: str, most: int, *, least: int = 0) -> str:
    if not least <= len(text) <= most or "\x00" in text:
        raise _invalid(name, f"must have {least} to {most} characters")
    return text


def _invalid(name: str, why: str) -> TollbridgeError:
    return TollbridgeError(Code.INVALID_REQUEST, f"{name} {why}", details={"param": name})


def _ended(numbers: Iterable[int]) -> list[str]:
    asked = set(numbers)
    if not asked <= charges.ENDED.keys():
        raise _invalid("ended", "must be ways in which a request can end")
    return [charges.ENDED[number] for number in sorted(asked)]
