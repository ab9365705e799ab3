"""Spend caps: an account per capped owner and period, and which of them holds and charges count in."""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_ROLE = "tollbridge_billing"

_STATEMENTS = (
    """
    CREATE TABLE billing.cap_accounts (
        id text PRIMARY KEY CHECK (length(id) BETWEEN 1 AND 200 AND position(' ' IN id) = 0),
        cap bigint NOT NULL CHECK (cap BETWEEN 1 AND 9007199254740992),
        spent bigint NOT NULL DEFAULT 0 CHECK (spent >= 0),
        held bigint NOT NULL DEFAULT 0 CHECK (held >= 0),
        overrun bigint NOT NULL DEFAULT 0 CHECK (overrun BETWEEN 0 AND 1000000000000000000),
        CONSTRAINT cap_is_kept CHECK (spent + held <= cap)
    ) WITH (fillfactor = 50)
    """,
    f"REVOKE ALL ON billing.cap_accounts FROM {_ROLE}",
    f"GRANT SELECT, INSERT, UPDATE ON billing.cap_accounts TO {_ROLE}",
    # Null, as for all rows so far, is none.
    "ALTER TABLE billing.holds ADD COLUMN cap_ids text[] CHECK (cardinality(cap_ids) > 0)",
    "ALTER TABLE billing.transfers ADD COLUMN cap_ids text[] CHECK (cardinality(cap_ids) > 0)",
)


def upgrade() -> None:
    """Makes everything."""
    for statement in _STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """Never: what is wrong is put right by the next one."""
    raise NotImplementedError("migrations only go forward")
