"""Every recorded proof of the ledger: when, of what, with what result."""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_ROLE = "tollbridge_billing"

_STATEMENTS = (
    """
    CREATE TABLE billing.reconciliations (
        id uuid PRIMARY KEY,
        kind text NOT NULL CHECK (kind IN ('verify', 'replay', 'reconcile')),
        subject text NOT NULL DEFAULT '' CHECK (length(subject) <= 200),
        clean boolean NOT NULL,
        differences integer NOT NULL CHECK (differences >= 0),
        report jsonb NOT NULL,
        made_at timestamptz NOT NULL DEFAULT now(),
        CHECK (clean = (differences = 0))
    )
    """,
    "CREATE INDEX newest_reconciliations ON billing.reconciliations (kind, subject, made_at DESC)",
    f"REVOKE ALL ON billing.reconciliations FROM {_ROLE}",
    f"GRANT SELECT, INSERT ON billing.reconciliations TO {_ROLE}",
    """
    CREATE TRIGGER proofs_are_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON billing.reconciliations
        FOR EACH STATEMENT EXECUTE FUNCTION billing.refuse_change()
    """,
)


def upgrade() -> None:
    """Makes the table."""
    for statement in _STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """Never: what is wrong is put right by the next one."""
    raise NotImplementedError("migrations only go forward")
