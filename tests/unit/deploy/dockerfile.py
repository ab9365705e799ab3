"""Reads the Dockerfile as far as tests ask: its stages and their instructions."""

import re
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


@dataclass(slots=True, kw_only=True)
class Stage:
    """One FROM and what follows it."""

    name: str
    base: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def all(self, keyword: str) -> list[str]:
        """What stands behind that keyword, each time."""
        return [rest for found, rest in self.instructions if found == keyword]


def stages() -> tuple[dict[str, str], list[Stage]]:
    """The ARGs before the first stage with their defaults, and the stages."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    arguments: dict[str, str] = {}
    found: list[Stage] = []
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        keyword, _, rest = line.strip().partition(" ")
        if keyword == "FROM":
            base, _, name = rest.partition(" AS ")
            found.append(Stage(name=name, base=base))
        elif found and keyword:
            found[-1].instructions.append((keyword, rest))
        elif keyword == "ARG":
            name, _, default = rest.partition("=")
            arguments[name] = default
    return arguments, found
