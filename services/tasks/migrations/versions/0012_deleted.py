"""When a job's customer deleted it, as whoever orders videos may; 0 for those that nobody has."""

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the column."""
    op.execute("ALTER TABLE tasks.tasks ADD COLUMN deleted_at_us bigint NOT NULL DEFAULT 0")


def downgrade() -> None:
    """Never: what is wrong is put right by the next one."""
    raise NotImplementedError("migrations only go forward")
