"""Indexes for forgetting jobs that ended long ago, and for whether anything of one has not left yet."""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_STATEMENTS = (
    "CREATE INDEX tasks_ended ON tasks.tasks (finished_at_us) WHERE finished_at_us > 0",
    "CREATE INDEX outbox_of_task ON tasks.outbox (task_id)",
)


def upgrade() -> None:
    """Makes the indexes."""
    for statement in _STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """Never: what is wrong is put right by the next one."""
    raise NotImplementedError("migrations only go forward")
