"""Settings from the environment: field `x` is read from TOLLBRIDGE_X. The only reader of the environment in chassis.

Every wrong or missing variable is named in one error, never with its value: it may be a secret. An empty variable is
an unset one, because that is what `${X:-}` in compose files and manifests leaves behind.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import msgspec

PREFIX = "TOLLBRIDGE_"
SECRET_ENDINGS = ("token", "tokens", "secret", "key", "keys", "password", "peppers", "_url")
"""Fields named so are hidden by repr: URLs too, since they carry passwords."""

FALLBACKS = {"otlp_endpoint": "OTEL_EXPORTER_OTLP_ENDPOINT"}

S = TypeVar("S", bound="ServiceSettings")


class SettingsError(Exception):
    """Variables that are missing or can't be read; `problems` has a line for each, without values."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("wrong settings: " + "; ".join(problems))
        self.problems = problems


class ServiceSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What every service process is told. A service's own Settings adds fields and sets `service_name`."""

    service_name: str = ""
    replica: str = "0"
    grpc_bind: str = "127.0.0.1:0"
    metrics_bind: str = "127.0.0.1:0"
    database_url: str = ""
    nats_url: str = "nats://127.0.0.1:4222"
    config_path: str = ""
    log_level: str = "info"
    service_token: str = ""
    """This process's own identity, "<name>:<secret>"."""
    service_tokens: str = ""
    """Who may call: "edge:<secret>,tasks:sha256:<hex>", or with `tls_dir` the name alone (`chassis.callers`)."""
    auth_addresses: str = ""
    router_addresses: str = ""
    billing_addresses: str = ""
    tasks_addresses: str = ""
    otlp_endpoint: str = ""
    grpc_reuse_port: bool = False
    """A successor may listen on our address while we still do (`tollbridge up` restarts that way)."""
    tls_dir: str = ""
    """A folder with certificates: gRPC is mutual TLS then (`chassis.tls`)."""
    stream_replicas: int = 1
    """On how many NATS servers each stream and bucket is kept: 1, 3 or 5. Streams get more of them, never fewer."""
    drain_announce_s: float = 0.5
    """How long after SIGTERM new work is still taken, while everybody is told to go elsewhere."""
    drain_grace_s: float = 30.0
    """How long what runs may go on after that."""

    def __repr__(self) -> str:
        shown = (f"{name}={_shown(name, getattr(self, name))}" for name in self.__struct_fields__)
        return f"{type(self).__name__}({', '.join(shown)})"


def versioned_secrets(text: str, *, what: str, least_bytes: int) -> dict[int, bytes]:
    """Reads `1:<hex>,2:<hex>`: secrets that rotate, by version, the newest last. Raises ValueError that quotes none."""
    found: dict[int, bytes] = {}
    for part in text.split(","):
        version, _, hexed = part.strip().partition(":")
        if not (version.isascii() and version.isdigit()) or not 1 <= int(version) <= 32_767:
            raise ValueError(f"a {what} is written as <version>:<hex>, the version from 1 to 32767")
        if int(version) in found:
            raise ValueError(f"{what} {version} is there twice")
        try:
            found[int(version)] = bytes.fromhex(hexed)
        except ValueError:
            raise ValueError(f"{what} {version} is not hexadecimal") from None
        if len(found[int(version)]) < least_bytes:
            raise ValueError(f"{what} {version} is shorter than {least_bytes} bytes")
    return found


def environment() -> Mapping[str, str]:
    """The process's environment, for the few modules of chassis that must look into it."""
    return os.environ


def load(kind: type[S], environ: Mapping[str, str] | None = None) -> S:
    """Reads `kind` from `environ` (None: the process's own); raises SettingsError naming every bad variable."""
    source = environment() if environ is None else environ
    values: dict[str, object] = {}
    problems: list[str] = []
    for field in msgspec.structs.fields(kind):
        variable = PREFIX + field.name.upper()
        text = source.get(variable) or source.get(FALLBACKS.get(field.name, ""))
        if not text:
            if field.required:
                problems.append(f"{variable} is not set")
            continue
        try:
            values[field.name] = msgspec.convert(text, field.type, strict=False, dec_hook=_decode)
        except msgspec.ValidationError as error:
            problems.append(f"{variable}: {str(error).replace(repr(text), '…')}")  # quoted: `x` is in "expected" too
    if problems:
        raise SettingsError(problems)
    try:
        return msgspec.convert(values, kind)
    except ValueError as error:  # a rule over several fields, in the service's __post_init__
        raise SettingsError([str(error)]) from None


def _decode(kind: type, value: object) -> object:
    if kind is Path:
        return Path(str(value))
    raise NotImplementedError  # what msgspec asks its hooks to say of types that are not theirs


def _shown(name: str, value: object) -> str:
    return "'…'" if value and name.endswith(SECRET_ENDINGS) else repr(value)
