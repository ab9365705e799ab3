"""When a lease's spender last said that nothing of it is free; and a customer's open leases, to be found by them."""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds both; a lease without an answer was never asked."""
    op.execute("ALTER TABLE billing.holds ADD COLUMN answered_at timestamptz")
    op.execute(
        "CREATE INDEX open_leases_of_customer ON billing.holds (customer_id) WHERE state = 'open' AND kind = 'lease'"
    )


def downgrade() -> None:
    """Never: what is wrong is put right by the next one."""
    raise NotImplementedError("migrations only go forward")
