"""Batches of usage events that are applied whole, so that their spender asks about each by one id."""

from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

_ROLE = "tollbridge_billing"


def upgrade() -> None:
    """Makes the table. What is not in it is asked about event by event."""
    op.execute("CREATE TABLE billing.applied_batches (id uuid PRIMARY KEY)")
    op.execute(f"REVOKE ALL ON billing.applied_batches FROM {_ROLE}")
    op.execute(f"GRANT SELECT, INSERT, DELETE ON billing.applied_batches TO {_ROLE}")


def downgrade() -> None:
    """Never: what is wrong is put right by the next one."""
    raise NotImplementedError("migrations only go forward")
