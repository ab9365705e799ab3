"""What a job has running at a provider, saved before it is first asked for, and how far it is."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_STATEMENTS = (
    """
    ALTER TABLE tasks.tasks
        ADD COLUMN provider_account_id text NOT NULL DEFAULT '',
        ADD COLUMN progress double precision NOT NULL DEFAULT 0 CHECK (progress BETWEEN 0 AND 1),
        ADD CHECK ((provider_account_id = '') = (provider_task_id = ''))
    """,
    "UPDATE tasks.tasks SET progress = 1 WHERE status = 'succeeded'",
)


def upgrade() -> None:
    """Adds the columns."""
    for statement in _STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """Never: what is wrong is put right by the next one."""
    raise NotImplementedError("migrations only go forward")
