"""When a USDT transfer was dropped: it is looked for a day longer, as a node that lags may not know it for a while."""

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds it; what was dropped before is not looked for."""
    op.execute("ALTER TABLE billing.crypto_transfers ADD COLUMN dropped_at timestamptz")
    op.execute("CREATE INDEX dropped_crypto_transfers ON billing.crypto_transfers (dropped_at) WHERE state = 'dropped'")


def downgrade() -> None:
    """Never: what is wrong is put right by the next one."""
    raise NotImplementedError("migrations only go forward")
