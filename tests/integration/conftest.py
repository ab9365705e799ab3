"""One running system for all promises that don't kill parts of it."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.offer import CONFIG
from tests.integration.running import RUNNING_ALREADY, Gateway, Provider, gateway, provider


@pytest.fixture(scope="session")
def fake_provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Provider]:
    """A provider that speaks both protocols and keeps its own log."""
    with provider(tmp_path_factory.mktemp("provider")) as running:
        yield running


@pytest.fixture(scope="session")
def system(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Gateway]:
    """The whole system in front of that provider; the one that runs already when the environment names it."""
    named = os.environ.get(RUNNING_ALREADY)
    if named:
        yield Gateway.running_already(Path(named))
        return
    fake: Provider = request.getfixturevalue("fake_provider")
    directory: Path = tmp_path_factory.mktemp("system")
    with gateway(directory, CONFIG % {"provider": fake.url}) as running:
        yield running
