"""Since when spenders of limits are listened to: silence means something only after that long."""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Makes the table of one row."""
    op.execute(
        """
        CREATE TABLE auth.limit_sweeps (
            one boolean PRIMARY KEY DEFAULT true CHECK (one),
            listening_since timestamptz NOT NULL DEFAULT clock_timestamp(),
            swept_at timestamptz NOT NULL DEFAULT clock_timestamp()
        )
        """
    )


def downgrade() -> None:
    """Never: what is wrong is put right by the next one."""
    raise NotImplementedError("migrations only go forward")
