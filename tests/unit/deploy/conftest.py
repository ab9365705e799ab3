"""What the tests of deploy/k8s look at, made once for each file."""

import pytest

from tests.unit.deploy import site as of_site
from tests.unit.deploy.cluster import Manifest


@pytest.fixture(scope="module")
def prod() -> list[Manifest]:
    """The overlay `prod`."""
    return of_site.prod_objects()


@pytest.fixture(scope="module")
def site() -> list[Manifest]:
    """The same with every component."""
    return of_site.site_objects()


@pytest.fixture(scope="module")
def replay() -> list[Manifest]:
    """The job that replays a spool."""
    return of_site.replay_objects()
