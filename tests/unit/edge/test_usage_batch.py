"""The bytes of the spool are those of the bus."""

import pytest

from services.edge.spending.usage_batch import encoded
from tollbridge.usage.v1 import usage_pb2


@pytest.mark.parametrize("length", [0, 100, 127 - 2, 128, 300, 20_000])
def test_a_batch_of_events_as_bytes_is_read_as_a_batch_of_events(length: int):
    """However long an event is."""
    events = [usage_pb2.UsageRecorded(model="m" * length), usage_pb2.UsageRecorded(charge_nano_usd=-1)]
    batch = usage_pb2.UsageBatch.FromString(encoded("name", [event.SerializeToString() for event in events]))
    assert batch == usage_pb2.UsageBatch(id="name", events=events)
