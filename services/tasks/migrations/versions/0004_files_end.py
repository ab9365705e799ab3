"""Files are kept for a time, counted by customer, and reached by signed links."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_STATEMENTS = (
    """
    ALTER TABLE tasks.results
        ADD COLUMN expires_at_us bigint NOT NULL DEFAULT 0,
        ADD COLUMN removed_at_us bigint NOT NULL DEFAULT 0
    """,
    """
    UPDATE tasks.results
    SET expires_at_us = (extract(epoch FROM clock_timestamp()) * 1000000)::bigint + 604800000000
    """,
    "CREATE INDEX results_to_remove ON tasks.results (expires_at_us) WHERE removed_at_us = 0",
    """
    CREATE TABLE tasks.storage (
        customer_id uuid PRIMARY KEY,
        bytes bigint NOT NULL,
        files bigint NOT NULL
    )
    """,
    """
    INSERT INTO tasks.storage (customer_id, bytes, files)
    SELECT t.customer_id, sum(r.size_bytes), count(*) FROM tasks.results r JOIN tasks.tasks t ON t.id = r.task_id
    GROUP BY t.customer_id
    """,
    """
    CREATE TABLE tasks.link_secrets (
        number integer PRIMARY KEY,
        secret bytea NOT NULL
    )
    """,
)


def upgrade() -> None:
    """What was made before is kept for a week from now."""
    for statement in _STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """Never: what is wrong is put right by the next one."""
    raise NotImplementedError("migrations only go forward")
