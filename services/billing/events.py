"""Names on the bus that billing owns: streams, subjects, durables; a test compares them with the table of events."""

from chassis.bus import Bus, ConsumerSpec, StreamSpec

_THIRTY_DAYS_S = 30 * 86_400

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
    max_age_s=_THIRTY_DAYS_S,
    max_bytes=8 << 30,
)
LEDGER = StreamSpec(
    name="LEDGER",
    subjects=("tollbridge.ledger.v1.>",),
    retention="limits",
    max_age_s=_THIRTY_DAYS_S,
    max_bytes=8 << 30,
)
CREDITS = StreamSpec(
    name="CREDITS",
    subjects=("tollbridge.credits.v1.low.>", "tollbridge.credits.v1.exhausted.>"),
    retention="limits",
    max_age_s=_THIRTY_DAYS_S,
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


async def ensure_streams(bus: Bus) -> None:
    """Makes the streams where they are missing."""
    for spec in STREAMS:
        await bus.ensure_stream(spec)
