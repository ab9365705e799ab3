"""What is due is found by an index, however much is not."""

from services.tasks.job_sql import NOW
from tests.unit.tasks.stage import TasksApi


async def test_the_clock_is_read_once_a_statement(api: TasksApi):
    """A time that may differ from row to row is compared with every row there is: no index finds what is due by it."""
    async with api.process.pool.connection() as conn:
        found = await conn.execute(f"SELECT count(DISTINCT {NOW}) FROM generate_series(1, 10000)")
        assert await found.fetchone() == (1,)


async def test_files_whose_time_is_over_are_found_by_their_index(api: TasksApi):
    """Up to now, and not by looking at all that are kept."""
    async with api.process.pool.connection() as conn:
        await conn.execute("SET LOCAL enable_seqscan = off")
        plan = await conn.execute(
            f"EXPLAIN SELECT 1 FROM tasks.results WHERE removed_at_us = 0 AND expires_at_us <= {NOW}"
        )
        lines = [text for (text,) in await plan.fetchall()]
    assert [line for line in lines if "Index Cond: (expires_at_us <=" in line], lines
