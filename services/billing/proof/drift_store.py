"""SQL of `ledger reconcile`: our requests at a provider, each with what its transfers make. Reads, changes nothing."""

import datetime
from collections.abc import Collection, Iterator
from uuid import UUID

import psycopg

from chassis.ids import unix_ms, uuid7_at
from pricing.tokens import Tokens
from services.billing.exports import line
from services.billing.proof.drift import OurLine
from services.billing.receipts.receipt_document import LATEST_US
from tollbridge.usage.v1 import usage_pb2

FETCH_ROWS = 2000
MARGIN_DAYS = 1
"""A request may be counted by the provider on the day before or after ours."""
_OLDEST_KEPT = "SELECT kept_from FROM billing.usage_log"
_REQUESTS = """
    SELECT u.request_id, u.recorded, u.charge, coalesce((SELECT sum(t.amount) FROM billing.transfers t
        WHERE u.kind = 'charge' AND t.event_id = 'charge:' || u.request_id), 0)::bigint
    FROM billing.usage_events u
    WHERE u.request_id >= %(first)s AND u.request_id < %(end)s AND (u.kind = 'charge' OR (u.kind = 'void'
        AND NOT EXISTS (SELECT FROM billing.usage_events c WHERE c.request_id = u.request_id AND c.kind = 'charge')))
"""


def kept_from(connection: psycopg.Connection) -> datetime.date:
    """The first day that the usage log still has."""
    row = connection.execute(_OLDEST_KEPT).fetchone()
    return _day(unix_ms(row[0]) * 1000) if row else datetime.date.min


def requests(
    connection: psycopg.Connection,
    *,
    provider_ids: Collection[str],
    account: str,
    first_day: datetime.date,
    last_day: datetime.date,
) -> Iterator[OurLine]:
    """Our requests that went to these providers (and to this account, when one is given), a margin at both ends."""
    bounds = {
        "first": _lowest_id(first_day - datetime.timedelta(days=MARGIN_DAYS)),
        "end": _lowest_id(last_day + datetime.timedelta(days=1 + MARGIN_DAYS)),
    }
    with connection.cursor("requests") as cursor:
        cursor.itersize = FETCH_ROWS
        for request_id, recorded, charge, booked in cursor.execute(_REQUESTS, bounds):
            event = usage_pb2.UsageRecorded.FromString(recorded)
            if event.provider_id in provider_ids and account in ("", event.provider_account_id):
                yield _line(request_id, event, charge, booked)


def _line(request_id: UUID, event: usage_pb2.UsageRecorded, charge: int, booked: int) -> OurLine:
    tokens = Tokens(**{name: getattr(event.tokens, name) for name in Tokens.__struct_fields__})
    reported = event.provider_reported_cost_nano_usd
    measures = {name: getattr(tokens, name) for name in line.TOKEN_CLASSES}
    measures |= {name: getattr(event.units, name) for name in line.UNITS}
    measures |= {"prompt": tokens.prompt, "completion": tokens.completion}
    reached = event.kind == usage_pb2.USAGE_KIND_CHARGE or event.generation_id or tokens.prompt or tokens.completion
    measures[line.REQUESTS] = 1 if reached else 0
    measures[line.COST] = event.provider_cost_nano_usd if reported < 0 else reported
    return OurLine(
        request_id=str(request_id),
        day=_day(event.started_at_us if 0 < event.started_at_us < LATEST_US else unix_ms(request_id) * 1000),
        account=event.provider_account_id,
        model=event.provider_model,
        generation_id=event.generation_id,
        measures=measures,
        charge_nano_usd=charge,
        booked_nano_usd=booked,
    )


def _day(at_us: int) -> datetime.date:
    return datetime.datetime.fromtimestamp(at_us // 1_000_000, datetime.UTC).date()


def _lowest_id(day: datetime.date) -> UUID:
    midnight = datetime.datetime.combine(day, datetime.time(), datetime.UTC)
    return uuid7_at(int(midnight.timestamp()) * 1000)
