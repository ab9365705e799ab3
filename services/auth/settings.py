"""What the environment tells the auth process; the only file here that is filled from it."""

from chassis.settings import ServiceSettings
from services.auth.api_keys import Peppers


class Settings(ServiceSettings, frozen=True, kw_only=True):
    """Each field is `TOLLBRIDGE_<NAME>` in the environment."""

    service_name: str = "auth"
    key_peppers: str
    """Versioned secrets under which key digests are made: `1:<hex>,2:<hex>`, the newest last. Old ones stay for as
    long as keys made under them do."""
    default_customer_id: str = ""
    """Whose key it is when nobody is named; empty where there is no default customer."""

    def __post_init__(self) -> None:
        Peppers.parse(self.key_peppers)
