"""Edge on the bus: the names of what it publishes and hears. The stream of usage is billing's to make."""

from services.edge.idempotency.answers import BUCKET

USAGE_RECORDED = "tollbridge.usage.v1.recorded"
USAGE_RECORDED_TYPE = "tollbridge.usage.v1.UsageBatch"
CREDITS_RECALLED = "tollbridge.credits.v1.recalled"
KEYS_CHANGED = "tollbridge.keys.v1.changed"
EDGE_RUNNING = "tollbridge.edges.v1.running"

# What this service may do on the bus, and no more: `cli/bus_users.py` makes its user of it.
PUBLISHES = (USAGE_RECORDED, EDGE_RUNNING)
LISTENS = (CREDITS_RECALLED, KEYS_CHANGED, EDGE_RUNNING)
BUCKETS = (BUCKET,)
