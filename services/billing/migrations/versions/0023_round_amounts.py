"""A payment in USDT may ask for a round sum: then its digits are 0."""

from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Lets digits be 0."""
    op.execute(
        """
        ALTER TABLE billing.payments DROP CONSTRAINT payments_suffix_check,
            ADD CONSTRAINT payments_suffix_check CHECK (suffix BETWEEN 0 AND 9999)
        """
    )


def downgrade() -> None:
    """Never: what is wrong is put right by the next one."""
    raise NotImplementedError("migrations only go forward")
