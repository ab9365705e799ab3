"""Writes `.env` for docker-compose.yml with secrets of its own: `python3 deploy/compose/make_env.py`.

Standard library only. A file that is there is left alone, since a database made with its password, and keys made with
its pepper, work with no others.
"""

import hashlib
import os
import secrets
import sys
from pathlib import Path

CALLERS = ("edge", "auth", "router", "billing", "tasks", "cli")
BUS_USERS = ("auth", "billing", "edge", "tasks", "proof", "operator")
"""As in deploy/nats/users.conf."""
HEADER = "# Secrets of docker-compose.yml; keep this file to yourself.\n"


def lines() -> list[str]:
    """What the file says."""
    own = {name: f"{name}:{secrets.token_hex(24)}" for name in CALLERS}
    values = {
        "POSTGRES_PASSWORD": secrets.token_hex(24),
        "TOLLBRIDGE_ADMIN_TOKEN": f"adm_{secrets.token_urlsafe(32)}",
        "TOLLBRIDGE_KEY_PEPPERS": f"1:{secrets.token_hex(32)}",
        "TOLLBRIDGE_RECEIPT_KEY": secrets.token_hex(32),
        "TOLLBRIDGE_AT_REST_KEYS": f"1:{secrets.token_hex(32)}",
        "TOLLBRIDGE_SERVICE_TOKENS": ",".join(f"{name}:sha256:{hashed(token)}" for name, token in own.items()),
    }
    values |= {f"TOLLBRIDGE_{name.upper()}_TOKEN": token for name, token in own.items()}
    # the letter first: NATS would read some of the others as numbers
    values |= {f"TOLLBRIDGE_NATS_{name.upper()}_PASSWORD": f"n{secrets.token_hex(24)}" for name in BUS_USERS}
    return [f"{name}={value}\n" for name, value in values.items()]


def hashed(token: str) -> str:
    """All that others need of a service's secret."""
    return hashlib.sha256(token.partition(":")[2].encode()).hexdigest()


def main() -> int:
    """Writes the file beside docker-compose.yml, or where the argument says."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parents[2] / ".env"
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        print(f"{path} is there already; nothing was changed")
        return 0
    with os.fdopen(handle, "w") as file:
        file.write(HEADER)
        file.writelines(lines())
    print(f"{path} is written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
