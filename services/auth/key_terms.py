"""What a key was made for: its models, limits, spending cap, networks and end. Pure."""

import dataclasses
import ipaddress

from services.auth.limits import AS_THE_PLAN, Limits
from services.auth.spend_caps import SpendCap

MAX_NAME_LENGTH = 200
MAX_MODELS = 500
MAX_MODEL_LENGTH = 200
MAX_NETWORKS = 100


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class KeyTerms:
    """What a key may do. Empty `models` and `allowed_ips` are all; `expires_at_us` 0 is never."""

    name: str = ""
    models: tuple[str, ...] = ()
    overrides: Limits = AS_THE_PLAN
    spend_cap: SpendCap | None = None
    allowed_ips: tuple[str, ...] = ()
    expires_at_us: int = 0

    def __post_init__(self) -> None:
        if "\0" in self.name:
            raise ValueError("name must not have a NUL in it")
        if len(self.name) > MAX_NAME_LENGTH:
            raise ValueError(f"name is at most {MAX_NAME_LENGTH} characters")
        if len(self.models) > MAX_MODELS or not all(map(_is_model, self.models)):
            raise ValueError(f"models is at most {MAX_MODELS} names of 1 to {MAX_MODEL_LENGTH} characters")
        if len(self.allowed_ips) > MAX_NETWORKS:
            raise ValueError(f"allowed_ips is at most {MAX_NETWORKS} networks")
        if not 0 <= self.expires_at_us < 1 << 62:
            raise ValueError("expires_at is out of range")
        for network in self.allowed_ips:
            _network(network)

    @property
    def restricted(self) -> bool:
        """Whether the key has any terms of its own: such a key must not make or end others, or it could shed them."""
        return any((self.models, self.allowed_ips, self.spend_cap, self.expires_at_us, self.overrides != AS_THE_PLAN))

    def admits(self, address: str) -> bool:
        """Whether the key may be used from `address`; an unknown address is only admitted where all are."""
        if not self.allowed_ips:
            return True
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
            parsed = parsed.ipv4_mapped  # a client of a dual-stack socket is still the IPv4 client it was
        return any(parsed in _network(network) for network in self.allowed_ips)

    def is_over(self, now_us: int) -> bool:
        """Whether the key's time has run out."""
        return 0 < self.expires_at_us <= now_us


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """A key without its secret. `revoked_at_us` is 0 while it is valid; `made_by` is empty when an operator made it."""

    id: str
    customer_id: str
    shown_prefix: str
    terms: KeyTerms
    created_at_us: int
    revoked_at_us: int = 0
    made_by: str = ""


def _is_model(text: str) -> bool:
    return 1 <= len(text) <= MAX_MODEL_LENGTH and "\0" not in text


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError("allowed_ips holds addresses and CIDR networks only") from None
