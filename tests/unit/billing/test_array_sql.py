"""Whatever rows contain arrives in PostgreSQL as it is."""

from uuid import UUID

import psycopg
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from services.billing import array_sql

_INT64 = st.integers(-(1 << 63), (1 << 63) - 1)
_TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    ids=st.lists(st.none() | st.uuids(), max_size=5),
    numbers=st.lists(st.none() | _INT64, max_size=5),
    texts=st.lists(st.none() | _TEXTS, max_size=5),
    flags=st.lists(st.booleans(), max_size=5),
)
@example(ids=[UUID(int=7)] * 500, numbers=list(range(-250, 250)), texts=["same"] * 500, flags=[True] * 500)
@example(ids=[None] * 500, numbers=[*[1] * 499, None], texts=[None] * 500, flags=[])
def test_every_column_arrives_as_it_was(
    as_billing: psycopg.Connection,
    ids: list[UUID | None],
    numbers: list[int | None],
    texts: list[str | None],
    flags: list[bool],
):
    """Empty ones, nulls, and texts that mean something in an array, too."""
    row = as_billing.execute(
        "SELECT %s::uuid[], %s::bigint[], %s::text[], %s::boolean[]",
        (array_sql.ids(ids), array_sql.numbers(numbers), array_sql.texts(texts), array_sql.flags(flags)),
    ).fetchone()
    assert row == (ids, numbers, texts, flags)
