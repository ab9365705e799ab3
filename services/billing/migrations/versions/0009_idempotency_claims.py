"""Idempotency keys: which request each stands for, and who runs it."""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_ROLE = "tollbridge_billing"

_STATEMENTS = (
    """
    CREATE TABLE billing.idempotency_claims (
        customer_id text NOT NULL,
        key text NOT NULL CHECK (length(key) BETWEEN 1 AND 255),
        body_hash bytea NOT NULL CHECK (octet_length(body_hash) = 32),
        request_id uuid NOT NULL,
        call_id uuid NOT NULL UNIQUE,
        spender text NOT NULL,
        answered boolean NOT NULL DEFAULT false,
        alive_until timestamptz NOT NULL,
        made_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (customer_id, key)
    )
    """,
    "CREATE INDEX claims_by_age ON billing.idempotency_claims (made_at)",
    "CREATE INDEX running_claims ON billing.idempotency_claims (spender) WHERE NOT answered",
    f"REVOKE ALL ON billing.idempotency_claims FROM {_ROLE}",
    f"GRANT SELECT, INSERT, UPDATE, DELETE ON billing.idempotency_claims TO {_ROLE}",
)


def upgrade() -> None:
    """Makes the table."""
    for statement in _STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """Never: what is wrong is put right by the next one."""
    raise NotImplementedError("migrations only go forward")
