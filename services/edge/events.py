"""Edge on the bus: the names of what it publishes and hears."""

from chassis.bus import StreamSpec
from services.edge.idempotency.answers import BUCKET

USAGE_RECORDED = "tollbridge.usage.v1.recorded"
USAGE_RECORDED_TYPE = "tollbridge.usage.v1.UsageBatch"
CREDITS_RECALLED = "tollbridge.credits.v1.recalled"
KEYS_CHANGED = "tollbridge.keys.v1.changed"
EDGE_RUNNING = "tollbridge.edges.v1.running"

_30_DAYS_S = 30 * 24 * 3600
_8_GIB = 8 << 30

USAGE = StreamSpec(
    name="USAGE",
    subjects=("tollbridge.usage.v1.>",),
    retention="limits",
    max_age_s=_30_DAYS_S,
    max_bytes=_8_GIB,
)

# What this service may do on the bus, and no more: `cli/bus_users.py` makes its user of it.
PUBLISHES = (USAGE_RECORDED, EDGE_RUNNING)
LISTENS = (CREDITS_RECALLED, KEYS_CHANGED, EDGE_RUNNING)
STREAMS = (USAGE,)
BUCKETS = (BUCKET,)
