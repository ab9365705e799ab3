"""Whether Prometheus watches all that runs: `watched.py URL edge=2 router=3 ...` waits until it scrapes so many.

And until each of our rules was evaluated without an error. Standard library only.
"""

import collections
import json
import sys
import time
import urllib.request

PATIENCE_S = 180.0


def asked(url: str) -> dict[str, object]:
    """The data of an answer; none while it isn't there yet."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            found: dict[str, object] = json.load(answer)["data"]
            return found
    except OSError:
        return {}


def differences(base_url: str, wanted: dict[str, int]) -> list[str]:
    """What is not as it should be."""
    targets = asked(f"{base_url}/api/v1/targets?state=active").get("activeTargets", [])
    assert isinstance(targets, list)
    up = collections.Counter(each["labels"]["service"] for each in targets if each["health"] == "up")
    found = [f"{name}: {up[name]} of {count} are scraped" for name, count in wanted.items() if up[name] != count]
    groups = asked(f"{base_url}/api/v1/rules").get("groups", [])
    assert isinstance(groups, list)
    rules = [rule for group in groups for rule in group["rules"]]
    found += [f"rule {rule['name']}: {rule.get('lastError')}" for rule in rules if rule["health"] != "ok"]
    return found if rules else [*found, "no rules are there"]


def main() -> int:
    """The exit status is 1, and says why, when it isn't so in time."""
    base_url, *counts = sys.argv[1:]
    wanted = {name: int(count) for name, _, count in (each.partition("=") for each in counts)}
    deadline = time.monotonic() + PATIENCE_S
    while (found := differences(base_url, wanted)) and time.monotonic() < deadline:
        time.sleep(1)
    print("\n".join(found) or f"containers: Prometheus scrapes {counts}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
