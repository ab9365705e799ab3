"""Which jobs' money is held for minutes only, since billing was not reached after they were accepted."""

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

_STATEMENTS = (
    "ALTER TABLE tasks.tasks ADD COLUMN held_briefly boolean NOT NULL DEFAULT false",
    "CREATE INDEX tasks_held_briefly ON tasks.tasks (created_at_us) WHERE held_briefly",
)


def upgrade() -> None:
    """Adds the column."""
    for statement in _STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """Never: what is wrong is put right by the next one."""
    raise NotImplementedError("migrations only go forward")
