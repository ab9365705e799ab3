"""Customers may have a spend cap, as keys do."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the columns; null is no cap."""
    op.execute(
        """
        ALTER TABLE auth.customers
            ADD COLUMN spend_cap_nano_usd bigint CHECK (spend_cap_nano_usd > 0),
            ADD COLUMN spend_cap_per text CHECK (spend_cap_per IN ('day', 'month', 'total')),
            ADD CONSTRAINT whole_spend_cap CHECK ((spend_cap_nano_usd IS NULL) = (spend_cap_per IS NULL))
        """
    )


def downgrade() -> None:
    """Never: what is wrong is put right by the next one."""
    raise NotImplementedError("migrations only go forward")
