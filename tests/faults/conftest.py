"""Options of the long fault run: `make faults ARGS="--minutes 20 --seed 7"`, and what only it runs.

`make test` takes one of each kind of trouble; siblings that differ in who is struck are marked `thorough`.
"""

import secrets

import pytest

SHORT_MINUTES = 0.2
SHORT_SEED = 20261121


def pytest_addoption(parser: pytest.Parser) -> None:
    """How long the random mix runs, and which one it is."""
    parser.addoption("--minutes", type=float, help="length of the random mix; without it a short, known one runs")
    parser.addoption("--upgrade-from", help="the revision that test_upgrade upgrades from; by default the one before")
    parser.addoption("--seed", type=int, help="seed of the random mix; without it a fresh one when --minutes is given")


def pytest_configure(config: pytest.Config) -> None:
    """Names the marker."""
    config.addinivalue_line("markers", "thorough: a sibling of another fault test, run by `make faults`")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves thorough tests out, unless this folder or a file of it was asked for."""
    if any("faults" in argument for argument in config.args):
        return
    for item in items:
        if item.get_closest_marker("thorough"):
            item.add_marker(pytest.mark.skip(reason="`make faults` runs it"))


@pytest.fixture(scope="session")
def minutes(request: pytest.FixtureRequest) -> float:
    """How long the mix runs."""
    given: float | None = request.config.getoption("--minutes", default=None)
    return SHORT_MINUTES if given is None else given


@pytest.fixture(scope="session")
def seed(request: pytest.FixtureRequest) -> int:
    """Which mix it is. A run that was asked to be long is a new one each time, unless told otherwise."""
    given: int | None = request.config.getoption("--seed", default=None)
    if given is not None:
        return given
    is_long = request.config.getoption("--minutes", default=None) is not None
    return secrets.randbelow(1_000_000) if is_long else SHORT_SEED
