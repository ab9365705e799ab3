"""When the spender made the statement that a hold's `stated` comes from, so that an older one can't overwrite it."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds it; a hold without it takes any statement."""
    op.execute("ALTER TABLE billing.holds ADD COLUMN stated_as_of uuid")


def downgrade() -> None:
    """Never: what is wrong is put right by the next one."""
    raise NotImplementedError("migrations only go forward")
