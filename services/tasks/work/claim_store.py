"""What workers do in the table of jobs: claim the next one, renew, give back, and look after what was left behind.

Claiming is fair between customers: of those who wait, the one with the fewest running jobs of the kind comes next, and
of equals the one who was served longest ago; their oldest job that is due is taken. A row that another worker is
taking is passed over.
"""

import dataclasses

from chassis.db import Connection
from services.tasks import job_sql, jobs
from services.tasks.job_sql import JOB, NOW, every, one
from services.tasks.jobs import Job, Move, Status, Submission

# The customers who wait are found by hopping from one to the next in the index: it costs by customers, not by jobs.
# The outer LIMIT makes PostgreSQL go down the line only until one row could be locked, so no other is.
_CLAIM = f"""
WITH RECURSIVE waiting AS (
    (SELECT t.customer_id FROM tasks.tasks t WHERE t.status = 'pending' AND t.kind = %(kind)s
     ORDER BY t.customer_id LIMIT 1)
    UNION ALL
    SELECT (SELECT t.customer_id FROM tasks.tasks t WHERE t.status = 'pending' AND t.kind = %(kind)s
            AND t.customer_id > w.customer_id ORDER BY t.customer_id LIMIT 1)
    FROM waiting w WHERE w.customer_id IS NOT NULL
), running AS (
    SELECT t.customer_id, count(*) AS jobs FROM tasks.tasks t WHERE t.status = 'running' AND t.kind = %(kind)s
    GROUP BY t.customer_id
), line AS (
    SELECT w.customer_id FROM waiting w
    LEFT JOIN running r ON r.customer_id = w.customer_id
    LEFT JOIN tasks.turns s ON s.kind = %(kind)s AND s.customer_id = w.customer_id
    WHERE w.customer_id IS NOT NULL
    ORDER BY coalesce(r.jobs, 0), coalesce(s.served_at_us, 0), w.customer_id
), chosen AS MATERIALIZED (
    SELECT j.id, line.customer_id FROM line CROSS JOIN LATERAL (
        SELECT t.id FROM tasks.tasks t
        WHERE t.status = 'pending' AND t.kind = %(kind)s AND t.customer_id = line.customer_id
        AND t.not_before_us <= {NOW} AND t.deadline_us > {NOW}
        ORDER BY t.id LIMIT 1 FOR UPDATE SKIP LOCKED
    ) j LIMIT 1
), served AS (
    INSERT INTO tasks.turns (kind, customer_id, served_at_us) SELECT %(kind)s, customer_id, {NOW} FROM chosen
    ON CONFLICT (kind, customer_id) DO UPDATE SET served_at_us = excluded.served_at_us
)
UPDATE tasks.tasks t SET status = 'running', spender = %(spender)s, claims = t.claims + 1, version = t.version + 1,
    lease_until_us = {NOW} + %(lease)s,
    started_at_us = CASE WHEN t.started_at_us = 0 THEN {NOW} ELSE t.started_at_us END
FROM chosen WHERE t.id = chosen.id RETURNING {JOB}, t.body
"""
_LONG_OVER = f"""
SELECT t.id FROM tasks.tasks t WHERE t.finished_at_us > 0 AND t.finished_at_us < {NOW} - %s AND t.stop_at_us = 0
AND NOT EXISTS (SELECT 1 FROM tasks.outbox o WHERE o.task_id = t.id)
AND NOT EXISTS (SELECT 1 FROM tasks.results r WHERE r.task_id = t.id AND r.removed_at_us = 0)
AND NOT EXISTS (SELECT 1 FROM tasks.webhooks w WHERE w.task_id = t.id AND w.ended_at_us = 0)
ORDER BY t.finished_at_us LIMIT %s FOR UPDATE SKIP LOCKED
"""
MAX_STOPS = 8
STOP_PAUSE_S = 30.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """The jobs of a kind that wait: how many, and for how long the oldest has."""

    kind: str
    jobs: int
    oldest_s: float


async def claim_next(conn: Connection, kind: str, *, spender: str) -> Job | None:
    """Takes the job of a kind whose turn it is, with its body. None when none is due."""
    arguments = {"kind": kind, "spender": spender, "lease": job_sql.microseconds(jobs.LEASE_S)}
    row = await one(conn, _CLAIM, arguments)
    return None if row is None else job_sql.job(row)


async def renew(conn: Connection, task_id: str, *, claim_number: int) -> bool:
    """A heartbeat; False when the claim is lost: the job was cancelled or taken up by another."""
    done = await conn.execute(
        f"UPDATE tasks.tasks SET lease_until_us = {NOW} + %s WHERE id = %s AND status = 'running' AND claims = %s",
        (job_sql.microseconds(jobs.LEASE_S), task_id, claim_number),
    )
    return done.rowcount == 1


async def advance(conn: Connection, task_id: str, progress: float, *, claim_number: int) -> Job | None:
    """Notes how far a claimed job is, which is never less far than before. None when nothing has changed."""
    row = await one(
        conn,
        "UPDATE tasks.tasks t SET progress = %s, version = t.version + 1"
        f" WHERE t.id = %s AND t.status = 'running' AND t.claims = %s AND t.progress < %s RETURNING {JOB}",
        (progress, task_id, claim_number, progress),
    )
    return None if row is None else job_sql.job(row)


async def note_submission(conn: Connection, task_id: str, submission: Submission | None, *, claim_number: int) -> bool:
    """What a claimed job has running at a provider (None: nothing any more); False when the claim is lost."""
    account_id, provider_task_id = "", ""
    if submission is not None:
        account_id, provider_task_id = submission.provider_account_id, submission.provider_task_id
    done = await conn.execute(
        "UPDATE tasks.tasks SET provider_account_id = %s, provider_task_id = %s, version = version + 1"
        " WHERE id = %s AND status = 'running' AND claims = %s",
        (account_id, provider_task_id, task_id, claim_number),
    )
    return done.rowcount == 1


async def release(
    conn: Connection,
    task_id: str,
    *,
    claim_number: int,
    pause_s: float = 0.0,
    has_failed: bool = False,
    is_strike: bool = False,
) -> bool:
    """Gives an unfinished job back, due again after a pause; False when the claim is lost.

    `has_failed`: a provider has answered, badly. `is_strike`: it counts towards the job's own failure.
    """
    done = await conn.execute(
        f"UPDATE tasks.tasks SET status = %s, spender = '', version = version + 1, not_before_us = {NOW} + %s,"
        " failures = failures + %s, strikes = strikes + %s WHERE id = %s AND status = ANY(%s) AND claims = %s",
        (
            Status.PENDING.value,
            job_sql.microseconds(pause_s),
            int(has_failed),
            int(is_strike),
            task_id,
            jobs.sources(Move.RELEASE),
            claim_number,
        ),
    )
    return done.rowcount == 1


# Looking after


async def overdue(conn: Connection, *, limit: int) -> list[Job]:
    """Jobs that have not ended in their time; who runs one looks after that itself, and may be storing its result."""
    found = await every(
        conn,
        f"SELECT {JOB} FROM tasks.tasks t WHERE t.status IN ('pending', 'running') AND t.deadline_us <= {NOW}"
        f" AND (t.status = 'pending' OR t.lease_until_us < {NOW}) ORDER BY t.deadline_us LIMIT %s",
        (limit,),
    )
    return [job_sql.job(row) for row in found]


async def lapsed(conn: Connection, *, limit: int) -> list[Job]:
    """Running jobs whose worker has fallen silent, locked."""
    found = await every(
        conn,
        f"SELECT {JOB} FROM tasks.tasks t WHERE t.status = 'running' AND t.lease_until_us < {NOW}"
        " ORDER BY t.lease_until_us LIMIT %s FOR UPDATE SKIP LOCKED",
        (limit,),
    )
    return [job_sql.job(row) for row in found]


async def take_to_stop(conn: Connection, *, limit: int) -> list[Job]:
    """Ended jobs that are to be stopped at their providers, with their bodies: due again after a pause if nobody says
    that it is done, and given up after MAX_STOPS times."""
    found = await every(
        conn,
        "UPDATE tasks.tasks t SET stops = t.stops + 1,"
        f" stop_at_us = CASE WHEN t.stops + 1 >= %s THEN 0 ELSE {NOW} + %s END WHERE t.id IN ("
        f"SELECT id FROM tasks.tasks WHERE stop_at_us > 0 AND stop_at_us <= {NOW} ORDER BY stop_at_us"
        f" LIMIT %s FOR UPDATE SKIP LOCKED) RETURNING {JOB}, t.body",
        (MAX_STOPS, job_sql.microseconds(STOP_PAUSE_S), limit),
    )
    return [job_sql.job(row) for row in found]


async def stopped(conn: Connection, task_id: str) -> None:
    """Nothing of an ended job runs at its provider any more."""
    await conn.execute(f"UPDATE tasks.tasks t SET stop_at_us = 0, body = {job_sql.NO_BODY} WHERE id = %s", (task_id,))


async def forget(conn: Connection, *, kept_s: float, limit: int) -> int:
    """Drops jobs that ended longer ago and of which nothing goes on; how many. None while another process does."""
    lock = await one(conn, "SELECT pg_try_advisory_xact_lock(hashtext('tasks.forget')) AS ours", ())
    if lock is None or not lock["ours"]:
        return 0
    found = [row["id"] for row in await every(conn, _LONG_OVER, (job_sql.microseconds(kept_s), limit))]
    if found:
        await conn.execute("DELETE FROM tasks.results WHERE task_id = ANY(%s)", (found,))
        await conn.execute("DELETE FROM tasks.webhooks WHERE task_id = ANY(%s)", (found,))
        await conn.execute("DELETE FROM tasks.tasks WHERE id = ANY(%s)", (found,))
    return len(found)


async def backlogs(conn: Connection) -> list[Backlog]:
    """What waits, by kind; a kind of which nothing waits is left out."""
    found = await every(
        conn,
        f"SELECT kind, count(*) AS jobs, ({NOW} - min(created_at_us)) / 1000000.0 AS oldest_s FROM tasks.tasks"
        " WHERE status = 'pending' GROUP BY kind",
        (),
    )
    return [Backlog(kind=row["kind"], jobs=row["jobs"], oldest_s=max(0.0, float(row["oldest_s"]))) for row in found]
