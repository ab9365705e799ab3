"""Prints the secret `tollbridge-secrets` for `kubectl create -f -`, out of the file that compose's make_env.py made.

Standard library only. `python3 deploy/k8s/make_secret.py FILE [--database-url URL] [--namespace NAME]`: without a URL
it is that of the PostgreSQL which overlays/dev has inside. Keep the file: a database made with its password, and keys
made with its pepper, work with no others. `create` leaves a secret alone that is there, `replace` changes it.
"""

import argparse
import json
import sys
from pathlib import Path

INSIDE = "postgresql://tollbridge:{password}@postgres:5432/tollbridge"
TAKEN = tuple(
    f"TOLLBRIDGE_{name}"
    for name in (
        *(f"{service}_TOKEN" for service in ("EDGE", "AUTH", "ROUTER", "BILLING", "TASKS", "ADMIN")),
        *("SERVICE_TOKENS", "KEY_PEPPERS", "RECEIPT_KEY", "AT_REST_KEYS"),
    )
)
"""What pods refer to. The file has more: of NATS and Grafana in compose, of people, perhaps of providers."""


def entries(text: str, *, database_url: str = "") -> dict[str, str]:
    """What the secret holds, by its keys: TOLLBRIDGE_AUTH_TOKEN is `auth-token`. Raises KeyError where it lacks one."""
    lines = (line.partition("=") for line in text.splitlines() if line and not line.startswith("#"))
    values = {name.strip(): value for name, _, value in lines if value}
    found = {name.removeprefix("TOLLBRIDGE_").replace("_", "-").lower(): values[name] for name in TAKEN}
    if not database_url:
        found["postgres-password"] = values["POSTGRES_PASSWORD"]
    found["database-url"] = database_url or INSIDE.format(password=found["postgres-password"])
    return found


def main() -> int:
    """Prints it; status 2 where the file can't be used."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--database-url", default="")
    parser.add_argument("--namespace", default="tollbridge")
    given = parser.parse_args()
    try:
        data = entries(given.file.read_text(), database_url=given.database_url)
    except (OSError, KeyError) as error:
        print(f"{given.file}: {error!r}", file=sys.stderr)
        return 2
    metadata = {"name": "tollbridge-secrets", "namespace": given.namespace}
    print(json.dumps({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": data}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
