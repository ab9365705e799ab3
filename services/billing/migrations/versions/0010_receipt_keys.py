"""Every public key that receipts were ever signed with, so that they stay checkable after the key was replaced."""

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_ROLE = "tollbridge_billing"

_STATEMENTS = (
    """
    CREATE TABLE billing.receipt_keys (
        public_key bytea PRIMARY KEY CHECK (length(public_key) = 32),
        since timestamptz NOT NULL DEFAULT now()
    )
    """,
    f"REVOKE ALL ON billing.receipt_keys FROM {_ROLE}",
    f"GRANT SELECT, INSERT ON billing.receipt_keys TO {_ROLE}",
)


def upgrade() -> None:
    """Makes the table."""
    for statement in _STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """Never: what is wrong is put right by the next one."""
    raise NotImplementedError("migrations only go forward")
