"""A migrated billing database for the tests of this folder."""

from collections.abc import Iterator

import psycopg
import pytest

from cli.schema import migrate
from tests.unit.billing.bank import PostgresBank


@pytest.fixture(scope="module")
def billing_url(postgres_url: str) -> str:
    """A database with billing's schema, as a superuser."""
    migrate(postgres_url, service="billing")
    return postgres_url


@pytest.fixture(scope="module")
def bank(billing_url: str) -> Iterator[PostgresBank]:
    """The service's objects on that database."""
    made = PostgresBank(billing_url)
    yield made
    made.close()


@pytest.fixture
def as_billing(billing_url: str) -> Iterator[psycopg.Connection]:
    """A connection with the rights of the service."""
    with psycopg.connect(billing_url, autocommit=True, options="-c role=tollbridge_billing") as connection:
        yield connection
