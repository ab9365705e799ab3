"""What the environment tells billing; the only file here that is filled from it."""

from typing import Annotated

from msgspec import Meta

from chassis.settings import ServiceSettings

STREAM_BYTES = 8 << 30
STREAM_S = 30 * 86_400
LEAST_STREAM_BYTES = 16 << 20
"""A message may have a MiB."""
LEAST_STREAM_S = 3600


class Settings(ServiceSettings, frozen=True, kw_only=True):
    """Each field is `TOLLBRIDGE_<NAME>` in the environment."""

    service_name: str = "billing"
    schema_wait_s: float = 120.0
    """How long a start waits for the schema that this code needs."""
    receipt_key: str = ""
    """Signs receipts: 64 hexadecimal digits, the same for all replicas; without it receipts are not signed."""
    at_rest_keys: str = ""
    """Encrypt customers' webhook secrets in the database: `1:<hex>,2:<hex>`, 64 digits each, the newest last, the same
    for all replicas. An old one stays until nothing is kept under it; without any they are kept in clear."""
    usage_stream_bytes: Annotated[int, Meta(ge=LEAST_STREAM_BYTES)] = STREAM_BYTES
    """What the stream USAGE keeps at most, on each server that has it; then it drops its oldest. Widened at a start,
    never narrowed; so are the other three."""
    usage_stream_s: Annotated[int, Meta(ge=LEAST_STREAM_S)] = STREAM_S
    """How long it keeps usage: for as long as a backup of the database may lie back."""
    ledger_stream_bytes: Annotated[int, Meta(ge=LEAST_STREAM_BYTES)] = STREAM_BYTES
    """The same of LEDGER."""
    ledger_stream_s: Annotated[int, Meta(ge=LEAST_STREAM_S)] = STREAM_S
