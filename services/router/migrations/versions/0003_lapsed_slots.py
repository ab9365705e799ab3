"""Slots that were freed for their spender's silence: one that speaks again, having stood still, takes them back."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_STATEMENTS = (
    """
    CREATE TABLE router.lapsed_slots (
        attempt_id uuid PRIMARY KEY,
        request_id uuid NOT NULL,
        account_id text NOT NULL,
        spender uuid NOT NULL,
        lapsed_at timestamptz NOT NULL DEFAULT clock_timestamp()
    )
    """,
    "CREATE INDEX lapsed_slots_of_spender ON router.lapsed_slots (spender)",
)


def upgrade() -> None:
    """Makes the table."""
    for statement in _STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """Never: what is wrong is put right by the next one."""
    raise NotImplementedError("migrations only go forward")
