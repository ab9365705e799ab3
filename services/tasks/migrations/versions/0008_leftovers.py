"""Files that may be in the store without a customer who has them: so that what was left behind is found and removed."""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_STATEMENTS = (
    """
    CREATE TABLE tasks.leftovers (
        file_id uuid PRIMARY KEY,
        clear_at_us bigint NOT NULL
    )
    """,
    "CREATE INDEX leftovers_to_clear ON tasks.leftovers (clear_at_us)",
)


def upgrade() -> None:
    """What was removed before was cleared then, or is lost."""
    for statement in _STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """Never: what is wrong is put right by the next one."""
    raise NotImplementedError("migrations only go forward")
