"""When a dispute that took money was won: the operator is told once, and credits it by hand."""

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds it."""
    op.execute("ALTER TABLE billing.payment_reversals ADD COLUMN won_at timestamptz")


def downgrade() -> None:
    """Never: what is wrong is put right by the next one."""
    raise NotImplementedError("migrations only go forward")
