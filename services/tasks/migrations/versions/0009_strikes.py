"""How many claims of a job came to nothing for a reason that may be the job's: to wait for a busy provider is none."""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Jobs that wait now begin anew."""
    op.execute("ALTER TABLE tasks.tasks ADD COLUMN strikes integer NOT NULL DEFAULT 0")


def downgrade() -> None:
    """Never: what is wrong is put right by the next one."""
    raise NotImplementedError("migrations only go forward")
