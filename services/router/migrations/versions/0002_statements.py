"""Spenders' latest statements, so that every replica learns what was said to one of them."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_STATEMENTS = (
    # the moment of the latest statement: one that is executed late renews nothing
    "ALTER TABLE router.spenders ADD COLUMN as_of uuid",
    # a page of it: of the spender's attempts in [from_id, end_id) those listed run
    """
    CREATE TABLE router.statements (
        spender uuid NOT NULL REFERENCES router.spenders (id) ON DELETE CASCADE,
        from_id uuid NOT NULL,
        end_id uuid NOT NULL,
        as_of uuid NOT NULL,
        listed uuid[] NOT NULL,
        PRIMARY KEY (spender, from_id)
    )
    """,
)


def upgrade() -> None:
    """Makes the table."""
    for statement in _STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """Never: what is wrong is put right by the next one."""
    raise NotImplementedError("migrations only go forward")
