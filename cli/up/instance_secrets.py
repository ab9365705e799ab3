"""What an instance makes up at its first start and keeps: tokens, pepper, keys, default customer, demo key.

The environment wins over what is kept (`TOLLBRIDGE_ADMIN_TOKEN`, `TOLLBRIDGE_KEY_PEPPERS`, `TOLLBRIDGE_RECEIPT_KEY`,
`TOLLBRIDGE_AT_REST_KEYS`, `TOLLBRIDGE_DEFAULT_CUSTOMER_ID`), so that a database made elsewhere keeps its own.
"""

import dataclasses
import secrets
import uuid
from collections.abc import Mapping
from hashlib import sha256

from cli.services import SERVICES
from cli.up.data_dir import DataDir, DataDirError, read_json, write_private_json

CALLERS = (*SERVICES, "cli")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class InstanceSecrets:
    """Everything here is to be kept from others, except the customer's id."""

    service_tokens: dict[str, str]
    admin_token: str
    key_peppers: str
    default_customer_id: str
    receipt_key: str
    at_rest_keys: str
    demo_key: str = ""

    def accepted_tokens(self) -> str:
        """Who may call, as services read it: `edge:sha256:<hex>,…`, so that none of them could be another."""
        return ",".join(
            f"{name}:sha256:{sha256(secret.encode()).hexdigest()}" for name, secret in self.service_tokens.items()
        )

    def own_token(self, name: str) -> str:
        """A caller's own identity."""
        return f"{name}:{self.service_tokens[name]}"


def load_or_make(data_dir: DataDir, *, environ: Mapping[str, str]) -> InstanceSecrets:
    """Returns the instance's secrets, made and stored when this is its first start. Raises DataDirError."""
    kept = read_json(data_dir.secrets)
    if kept is None and data_dir.secrets.exists():
        raise DataDirError(f"{data_dir.secrets} is damaged; without its pepper no key of this instance works")
    found = _made() if kept is None else _read(kept)
    if kept is None or not (kept.get("receipt_key") and kept.get("at_rest_keys")):  # made before there were both
        store(data_dir, found)
    return dataclasses.replace(
        found,
        admin_token=environ.get("TOLLBRIDGE_ADMIN_TOKEN") or found.admin_token,
        key_peppers=environ.get("TOLLBRIDGE_KEY_PEPPERS") or found.key_peppers,
        receipt_key=environ.get("TOLLBRIDGE_RECEIPT_KEY") or found.receipt_key,
        at_rest_keys=environ.get("TOLLBRIDGE_AT_REST_KEYS") or found.at_rest_keys,
        default_customer_id=environ.get("TOLLBRIDGE_DEFAULT_CUSTOMER_ID") or found.default_customer_id,
    )


def remember_demo_key(data_dir: DataDir, demo_key: str) -> None:
    """Keeps the demo key, which is shown by its maker only once."""
    kept = read_json(data_dir.secrets)
    if kept is not None:
        store(data_dir, dataclasses.replace(_read(kept), demo_key=demo_key))


def store(data_dir: DataDir, found: InstanceSecrets) -> None:
    """Writes the secrets, for their owner only."""
    write_private_json(data_dir.secrets, dataclasses.asdict(found))


def _made() -> InstanceSecrets:
    return InstanceSecrets(
        service_tokens={name: secrets.token_hex(24) for name in CALLERS},
        admin_token=f"tba_{secrets.token_urlsafe(32)}",
        key_peppers=f"1:{secrets.token_hex(32)}",
        default_customer_id=str(uuid.uuid4()),
        receipt_key=secrets.token_hex(32),
        at_rest_keys=f"1:{secrets.token_hex(32)}",
    )


def _read(kept: dict[str, object]) -> InstanceSecrets:
    tokens = kept.get("service_tokens")
    stored = {str(name): str(secret) for name, secret in tokens.items()} if isinstance(tokens, dict) else {}
    return InstanceSecrets(
        service_tokens={name: stored.get(name) or secrets.token_hex(24) for name in CALLERS},
        admin_token=str(kept["admin_token"]),
        key_peppers=str(kept["key_peppers"]),
        default_customer_id=str(kept["default_customer_id"]),
        receipt_key=str(kept.get("receipt_key") or secrets.token_hex(32)),
        at_rest_keys=str(kept.get("at_rest_keys") or f"1:{secrets.token_hex(32)}"),
        demo_key=str(kept.get("demo_key", "")),
    )
