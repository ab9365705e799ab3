"""Workers choose among the customers who wait: whose turn it is, when a job is due again, and what has changed."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_STATEMENTS = (
    """
    ALTER TABLE tasks.tasks
        ADD COLUMN not_before_us bigint NOT NULL DEFAULT 0,
        ADD COLUMN version integer NOT NULL DEFAULT 1,
        ADD COLUMN stop_at_us bigint NOT NULL DEFAULT 0,
        ADD COLUMN stops integer NOT NULL DEFAULT 0,
        DROP COLUMN announced_at_us
    """,
    """
    CREATE TABLE tasks.turns (
        kind text NOT NULL,
        customer_id uuid NOT NULL,
        served_at_us bigint NOT NULL,
        PRIMARY KEY (kind, customer_id)
    )
    """,
    "DROP INDEX tasks.tasks_open",
    """
    CREATE INDEX tasks_waiting ON tasks.tasks (kind, customer_id, id) INCLUDE (created_at_us) WHERE status = 'pending'
    """,
    "CREATE INDEX tasks_running ON tasks.tasks (kind, customer_id) WHERE status = 'running'",
    "CREATE INDEX tasks_leased ON tasks.tasks (lease_until_us) WHERE status = 'running'",
    "CREATE INDEX tasks_due ON tasks.tasks (deadline_us) WHERE status IN ('pending', 'running')",
    "CREATE INDEX tasks_to_stop ON tasks.tasks (stop_at_us) WHERE stop_at_us > 0",
)


def upgrade() -> None:
    """Adds columns, a table and the indexes of the questions that workers ask all the time."""
    for statement in _STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """Never: what is wrong is put right by the next one."""
    raise NotImplementedError("migrations only go forward")
