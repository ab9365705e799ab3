"""How often a job was given back because it failed: a provider may be told by it that an order is another one."""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the column."""
    op.execute("ALTER TABLE tasks.tasks ADD COLUMN failures integer NOT NULL DEFAULT 0")


def downgrade() -> None:
    """Never: what is wrong is put right by the next one."""
    raise NotImplementedError("migrations only go forward")
