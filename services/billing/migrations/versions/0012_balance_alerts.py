"""What customers want to hear about their balance and where, and the webhooks that are on their way to them."""

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_ROLE = "tollbridge_billing"

_STATEMENTS = (
    """
    CREATE TABLE billing.balance_alerts (
        customer_id text PRIMARY KEY REFERENCES billing.ledger_accounts (customer_id),
        low_balance bigint CHECK (low_balance BETWEEN 0 AND 9007199254740992),
        url text NOT NULL DEFAULT '' CHECK (length(url) <= 2000),
        secret text NOT NULL DEFAULT '',
        changed_at timestamptz NOT NULL DEFAULT now(),
        CHECK (url = '' OR secret <> '')
    )
    """,
    """
    CREATE TABLE billing.webhook_deliveries (
        id uuid PRIMARY KEY,
        customer_id text NOT NULL,
        body bytea NOT NULL,
        state text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'delivered', 'failed')),
        tries integer NOT NULL DEFAULT 0 CHECK (tries >= 0),
        problem text NOT NULL DEFAULT '',
        made_at timestamptz NOT NULL DEFAULT now(),
        try_at timestamptz NOT NULL DEFAULT now(),
        ended_at timestamptz,
        CHECK ((state = 'pending') = (ended_at IS NULL))
    )
    """,
    "CREATE INDEX pending_webhooks ON billing.webhook_deliveries (try_at) WHERE state = 'pending'",
    "CREATE INDEX ended_webhooks ON billing.webhook_deliveries (ended_at) WHERE state <> 'pending'",
    f"REVOKE ALL ON billing.balance_alerts, billing.webhook_deliveries FROM {_ROLE}",
    f"GRANT SELECT, INSERT, UPDATE ON billing.balance_alerts TO {_ROLE}",
    f"GRANT SELECT, INSERT, UPDATE, DELETE ON billing.webhook_deliveries TO {_ROLE}",
)


def upgrade() -> None:
    """Makes both tables."""
    for statement in _STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """Never: what is wrong is put right by the next one."""
    raise NotImplementedError("migrations only go forward")
