"""Writes `.env` for docker-compose.yml with secrets of its own: `make_env.py [--observability] [FILE]`.

Standard library only. What the file already says is left alone, since a database made with its password, and keys
made with its pepper, work with no others; what it lacks is added, so that it fits a newer compose file. With
`--observability` the compose file also starts what watches it, and the services send their traces there.
"""

import argparse
import hashlib
import os
import secrets
import sys
import uuid
from pathlib import Path

CALLERS = ("edge", "auth", "router", "billing", "tasks", "cli")
HEADER = "# Secrets of docker-compose.yml; keep this file to yourself.\n"
BUS_USERS = ("auth", "billing", "edge", "tasks", "proof", "operator")
"""Those of deploy/nats/users.conf."""
ACCEPTED = "TOLLBRIDGE_SERVICE_TOKENS"
OBSERVABILITY = {"COMPOSE_PROFILES": "observability", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}


def made(found: dict[str, str]) -> dict[str, str]:
    """Everything that the compose file asks for, new but for what was found."""
    own = {name: found.get(variable(name)) or f"{name}:{secrets.token_hex(24)}" for name in CALLERS}
    values = {
        "POSTGRES_PASSWORD": secrets.token_hex(24),
        "GRAFANA_PASSWORD": secrets.token_urlsafe(24),
        "TOLLBRIDGE_ADMIN_TOKEN": f"adm_{secrets.token_urlsafe(32)}",
        "TOLLBRIDGE_KEY_PEPPERS": f"1:{secrets.token_hex(32)}",
        "TOLLBRIDGE_RECEIPT_KEY": secrets.token_hex(32),
        "TOLLBRIDGE_AT_REST_KEYS": f"1:{secrets.token_hex(32)}",
        "TOLLBRIDGE_DEFAULT_CUSTOMER_ID": str(uuid.uuid4()),
        ACCEPTED: ",".join(hashed(token) for token in own.values()),
    }
    # A letter before each: NATS would read digits with an `e` among them as a number.
    values |= {f"TOLLBRIDGE_NATS_{name.upper()}_PASSWORD": f"nats_{secrets.token_hex(24)}" for name in BUS_USERS}
    return values | {variable(name): token for name, token in own.items()}


def variable(caller: str) -> str:
    """What holds a caller's own token."""
    return f"TOLLBRIDGE_{caller.upper()}_TOKEN"


def hashed(token: str) -> str:
    """What the called are told of it: who reads their environment is nobody by that (docs/identities.md)."""
    name, _, secret = token.partition(":")
    return f"{name}:sha256:{hashlib.sha256(secret.encode()).hexdigest()}"


def read(text: str) -> dict[str, str]:
    """The names that a file sets, and to what; an empty value is one, too."""
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line and not line.startswith("#"))
    return {name.strip(): value for name, _, value in pairs}


def main() -> int:
    """Writes the file beside docker-compose.yml, or where the argument says, readable by its owner alone."""
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path, nargs="?", default=Path(__file__).resolve().parents[2] / ".env")
    parser.add_argument("--observability", action="store_true")
    asked = parser.parse_args()
    text = asked.file.read_text() if asked.file.exists() else HEADER
    found = read(text)
    wanted = made(found) | (OBSERVABILITY if asked.observability else {})
    added = {name: value for name, value in wanted.items() if name not in found}
    if any(variable(name) in added for name in CALLERS):
        added[ACCEPTED] = wanted[ACCEPTED]
    if not added:
        print(f"{asked.file} says everything already; nothing was changed")
        return 0
    kept = [line for line in text.splitlines() if line.partition("=")[0].strip() not in added]
    lines = [*kept, *(f"{name}={value}" for name, value in added.items())]
    new = asked.file.with_name(asked.file.name + ".new")
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write("\n".join(lines) + "\n")
    new.replace(asked.file)
    print(f"{asked.file} is written: {', '.join(sorted(added))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
