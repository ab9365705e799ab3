"""What the environment tells billing; the only file here that is filled from it."""

from chassis.settings import ServiceSettings


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
