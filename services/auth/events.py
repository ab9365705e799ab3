"""What auth says on the bus: which keys changed, so that nobody goes on using what they keep of them.

Core NATS, in no stream: a kept answer lives for under a second, so a message that is late is a message that is no
longer needed, and replicas that hear nothing poll the same changes (`changes.py`). What is here makes revocation fast;
it is not what makes it certain.
"""

from collections.abc import Iterable

from services.auth.store import Change
from tollbridge.auth.v1 import auth_pb2

KEYS_CHANGED = "tollbridge.keys.v1.changed"

# What this service may do on the bus, and no more: `cli/bus_users.py` makes its user of it.
PUBLISHES = (KEYS_CHANGED,)
LISTENS = (KEYS_CHANGED,)


def encode(changes: Iterable[Change]) -> bytes:
    """One message for some changes."""
    events = [auth_pb2.KeyChanged(event_id=c.event_id, key_id=c.key_id, customer_id=c.customer_id) for c in changes]
    return auth_pb2.KeyChangedBatch(events=events).SerializeToString()


def decode(data: bytes) -> list[tuple[str, str]]:
    """The (key_id, customer_id) pairs of a message. Raises google.protobuf.message.DecodeError."""
    batch = auth_pb2.KeyChangedBatch.FromString(data)
    return [(event.key_id, event.customer_id) for event in batch.events]
