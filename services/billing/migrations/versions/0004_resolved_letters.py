"""Who resolved a dead letter, how and why, and which letters keep a hold."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_STATEMENTS = (
    """
    ALTER TABLE billing.dead_letters
        ADD COLUMN resolution text CHECK (resolution IN ('charge', 'void', 'drop', 'superseded')),
        ADD COLUMN resolved_by text NOT NULL DEFAULT '',
        ADD COLUMN resolved_because text NOT NULL DEFAULT '',
        ADD COLUMN resolved_charge bigint NOT NULL DEFAULT 0 CHECK (resolved_charge BETWEEN 0 AND 9007199254740992),
        ADD CONSTRAINT resolved_somehow CHECK ((resolved_at IS NULL) = (resolution IS NULL))
    """,
    """
    CREATE INDEX open_dead_letters_of_hold ON billing.dead_letters (hold_id)
        WHERE resolved_at IS NULL AND hold_id IS NOT NULL
    """,
)


def upgrade() -> None:
    """Adds the columns and the index."""
    for statement in _STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """Never: what is wrong is put right by the next one."""
    raise NotImplementedError("migrations only go forward")
