"""What a job's end means for money: one usage record, a charge or a void, under the task's own id. Pure.

A customer pays for a job that succeeded, by what was made; a job that failed or was cancelled costs nothing, and its
record releases the hold. Either way the record closes the hold. What a provider made and we could not hand over is our
loss: a void that names the provider and what it cost us.
"""

import dataclasses

from msgspec.structs import asdict

from chassis import ids
from pricing.charge import charge_nano_usd, is_charged_as_reported, provider_cost_nano_usd
from pricing.tokens import Tokens, Units
from services.tasks.jobs import Job, Used
from tollbridge.usage.v1 import usage_pb2
from upstream.route import Route

NO_TOKENS = Tokens()
_HTTP_OK = 200


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What a provider made for a job, and by whom.

    `implausible`: it reported usage or a cost that can't be, in whose place our own count or the list price stands.
    """

    route: Route
    tokens: Tokens
    units: Units
    reported_cost_nano_usd: int | None
    generation_id: str
    is_evidence_counted: bool = False
    """True when the provider said nothing of its usage and we counted."""
    implausible: bool = False

    @property
    def charge_nano_usd(self) -> int:
        """What the customer pays. Raises pricing.charge.ChargeOutOfRange."""
        return charge_nano_usd(
            self.tokens, self.units, self.route.price, reported_cost_nano_usd=self.reported_cost_nano_usd
        )

    @property
    def used(self) -> Used:
        """What its customer is shown of the tokens."""
        images = self.tokens.image_input
        return Used(text_tokens=self.tokens.prompt - images, image_tokens=images, output_tokens=self.tokens.completion)

    @property
    def is_odd(self) -> bool:
        """Whether it is to be flagged: implausible, or priced by its reported cost and charged by list all the same."""
        price, cost = self.route.price, self.reported_cost_nano_usd
        as_reported = is_charged_as_reported(self.tokens, self.units, price, reported_cost_nano_usd=cost)
        return self.implausible or (price.cost_reported and not as_reported)


def charge(job: Job, made: Made, *, spender: str, ended_at_us: int) -> usage_pb2.UsageRecorded:
    """The record of a job that succeeded."""
    record = _record(job, kind=usage_pb2.USAGE_KIND_CHARGE, spender=spender, ended_at_us=ended_at_us)
    record.ended = usage_pb2.ENDED_COMPLETE
    record.http_status = _HTTP_OK
    record.charge_nano_usd = made.charge_nano_usd
    _add_made(record, made)
    return record


def loss(job: Job, made: Made, *, http_status: int, ended_at_us: int) -> usage_pb2.UsageRecorded:
    """The record of a job that a provider finished and we failed: free for the customer, paid by us."""
    record = void(job, ended=usage_pb2.ENDED_GATEWAY_FAILED, http_status=http_status, ended_at_us=ended_at_us)
    _add_made(record, made)
    return record


def _add_made(record: usage_pb2.UsageRecorded, made: Made) -> None:
    """Who made it, what it used, and what that costs us."""
    route = made.route
    record.price_version = route.price.id
    record.provider_cost_nano_usd = provider_cost_nano_usd(made.tokens, made.units, route.price)
    if made.reported_cost_nano_usd is not None:
        record.provider_reported_cost_nano_usd = made.reported_cost_nano_usd
    record.evidence = usage_pb2.EVIDENCE_COUNTED if made.is_evidence_counted else usage_pb2.EVIDENCE_PROVIDER
    record.provider_id = route.provider_id
    record.provider_account_id = route.provider_account_id
    record.provider_model = route.provider_model
    record.generation_id = made.generation_id
    record.implausible = made.is_odd
    record.tokens.CopyFrom(usage_pb2.Tokens(**asdict(made.tokens)))
    record.units.CopyFrom(usage_pb2.Units(**asdict(made.units)))


def void(job: Job, *, ended: usage_pb2.Ended.ValueType, http_status: int, ended_at_us: int) -> usage_pb2.UsageRecorded:
    """The record of a job that costs nothing."""
    record = _record(job, kind=usage_pb2.USAGE_KIND_VOID, spender=job.spender, ended_at_us=ended_at_us)
    record.ended = ended
    record.http_status = http_status
    record.price_version = job.order.price_version
    record.evidence = usage_pb2.EVIDENCE_COUNTED
    return record


def _record(
    job: Job, *, kind: usage_pb2.UsageKind.ValueType, spender: str, ended_at_us: int
) -> usage_pb2.UsageRecorded:
    order = job.order
    return usage_pb2.UsageRecorded(
        event_id=str(ids.uuid7()),
        request_id=order.id,
        kind=kind,
        customer_id=order.customer_id,
        key_id=order.key_id,
        hold_id=order.hold_id if order.is_held else "",
        closes_hold=order.is_held,
        spender=spender,
        provider_reported_cost_nano_usd=-1,
        model=order.model,
        operation=order.kind,
        latency_ms=max(0, (ended_at_us - job.created_at_us) // 1000),
        first_byte_ms=-1,
        started_at_us=job.created_at_us,
        ended_at_us=ended_at_us,
        traceparent=order.traceparent,
    )
