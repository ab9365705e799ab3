"""Names on the bus that billing owns: streams, subjects, durables; a test compares them with the table of events.

USAGE is billing's to make, though edge and tasks publish there: it is large or small by billing's settings alone. What
these streams drop when they are full is kept elsewhere: usage by its publishers until billing has confirmed it,
transfers by the ledger.
"""

import dataclasses
from collections.abc import Iterable, Sequence

from chassis.bus import Bus, ConsumerSpec
from chassis.streams import StreamSpec
from services.billing.settings import STREAM_BYTES, STREAM_S, Settings

USAGE_RECORDED = "tollbridge.usage.v1.recorded"
LEDGER_TRANSFERRED = "tollbridge.ledger.v1.transferred"
CREDITS_RECALLED = "tollbridge.credits.v1.recalled"
BALANCE_LOW = "tollbridge.credits.v1.low.*"
BALANCE_EXHAUSTED = "tollbridge.credits.v1.exhausted.*"
"""The last token is the customer's id."""

USAGE = StreamSpec(
    name="USAGE",
    subjects=("tollbridge.usage.v1.>",),
    retention="limits",
    max_age_s=STREAM_S,
    max_bytes=STREAM_BYTES,
)
LEDGER = StreamSpec(
    name="LEDGER",
    subjects=("tollbridge.ledger.v1.>",),
    retention="limits",
    max_age_s=STREAM_S,
    max_bytes=STREAM_BYTES,
)
CREDITS = StreamSpec(
    name="CREDITS",
    subjects=("tollbridge.credits.v1.low.>", "tollbridge.credits.v1.exhausted.>"),
    retention="limits",
    max_age_s=STREAM_S,
    max_bytes=256 << 20,
)
APPLY_USAGE = ConsumerSpec(
    stream=USAGE.name,
    durable="billing-apply-usage",
    subject=USAGE_RECORDED,
    max_ack_pending=1000,
    ack_wait_s=30,
)

# What this service may do on the bus, and no more: `cli/bus_users.py` makes its user of it.
PUBLISHES = (LEDGER_TRANSFERRED, CREDITS_RECALLED, BALANCE_LOW, BALANCE_EXHAUSTED)
STREAMS = (USAGE, LEDGER, CREDITS)
CONSUMES = (APPLY_USAGE,)


def sized(settings: Settings) -> Sequence[StreamSpec]:
    """The streams as large as the settings have them."""
    return (
        dataclasses.replace(USAGE, max_bytes=settings.usage_stream_bytes, max_age_s=settings.usage_stream_s),
        dataclasses.replace(LEDGER, max_bytes=settings.ledger_stream_bytes, max_age_s=settings.ledger_stream_s),
        CREDITS,
    )


async def ensure_streams(bus: Bus, streams: Iterable[StreamSpec] = STREAMS) -> None:
    """Makes the streams where they are missing."""
    for spec in streams:
        await bus.ensure_stream(spec)
