"""Migrations of each service are one line: two that follow the same one would leave nothing that could be applied."""

import ast
from pathlib import Path

import pytest

SERVICES = Path(__file__).resolve().parents[2] / "services"


@pytest.mark.parametrize("service", ["auth", "billing", "router", "tasks"])
def test_each_migration_follows_the_one_before_it(service: str) -> None:
    """Numbers without gap or twin, in files named by them."""
    files = sorted((SERVICES / service / "migrations" / "versions").glob("*.py"))
    links = [_link(file) for file in files]
    numbers = [f"{number:04}" for number in range(1, len(files) + 1)]
    assert [file.name.partition("_")[0] for file in files] == numbers
    assert links == list(zip(numbers, [None, *numbers], strict=False))


@pytest.mark.parametrize("service", ["auth", "billing", "router", "tasks"])
def test_migrations_only_go_forward(service: str) -> None:
    """None can be taken back, and each says so."""
    for file in sorted((SERVICES / service / "migrations" / "versions").glob("*.py")):
        [downgrade] = [each for each in ast.parse(file.read_text()).body if getattr(each, "name", "") == "downgrade"]
        assert ast.unparse(downgrade).endswith("raise NotImplementedError('migrations only go forward')"), file.name


def _link(file: Path) -> tuple[object, object]:
    """The revision that a file is, and the one that it follows."""
    values = {
        statement.targets[0].id: ast.literal_eval(statement.value)
        for statement in ast.parse(file.read_text()).body
        if isinstance(statement, ast.Assign)
        and isinstance(statement.targets[0], ast.Name)
        and statement.targets[0].id in {"revision", "down_revision"}
    }
    return values["revision"], values["down_revision"]
