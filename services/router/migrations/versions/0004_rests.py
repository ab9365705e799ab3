"""Rests of provider accounts, so that every replica knows what one has learnt, also after its start."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_STATEMENTS = (
    # a row per account that ever rested; is_open until a success, also when rests_until is over
    """
    CREATE TABLE router.rests (
        account_id text PRIMARY KEY,
        credential_mark text NOT NULL,
        is_open boolean NOT NULL,
        rests_until timestamptz NOT NULL,
        pause_s double precision NOT NULL CHECK (pause_s >= 0),
        is_broken boolean NOT NULL,
        revision bigint NOT NULL DEFAULT 1
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
