"""Top-ups: payments, what was taken back of them, and the USDT transfers that were seen on the chain."""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_ROLE = "tollbridge_billing"

_STATEMENTS = (
    # What a refund or dispute at the payment provider takes back is no charge, no refund of ours and no correction.
    "ALTER TABLE billing.transfers DROP CONSTRAINT transfers_kind_check",
    """
    ALTER TABLE billing.transfers ADD CONSTRAINT transfers_kind_check
        CHECK (kind IN ('charge', 'refund', 'adjustment', 'welcome', 'payment', 'reversal'))
    """,
    """
    CREATE TABLE billing.payments (
        id uuid PRIMARY KEY,
        customer_id text NOT NULL REFERENCES billing.ledger_accounts (customer_id),
        request_id text NOT NULL CHECK (length(request_id) BETWEEN 1 AND 200),
        provider text NOT NULL CHECK (provider IN ('stripe', 'crypto')),
        state text NOT NULL DEFAULT 'pending'
            CHECK (state IN ('pending', 'confirming', 'settled', 'expired', 'failed')),
        amount bigint NOT NULL CHECK (amount BETWEEN 1 AND 9007199254740992),
        credited bigint NOT NULL DEFAULT 0 CHECK (credited BETWEEN 0 AND 9007199254740992),
        reversed bigint NOT NULL DEFAULT 0 CHECK (reversed BETWEEN 0 AND credited),
        object_id text,
        event_id text,
        intent_id text,
        url text NOT NULL DEFAULT '',
        address text NOT NULL DEFAULT '',
        suffix integer CHECK (suffix BETWEEN 1 AND 9999),
        amount_micro_usdt bigint NOT NULL DEFAULT 0 CHECK (amount_micro_usdt >= 0),
        note text NOT NULL DEFAULT '',
        created_at timestamptz NOT NULL DEFAULT now(),
        expires_at timestamptz NOT NULL,
        open_until timestamptz NOT NULL,
        check_at timestamptz NOT NULL,
        settled_at timestamptz,
        UNIQUE (customer_id, request_id),
        UNIQUE (provider, object_id),
        UNIQUE (provider, event_id),
        CHECK ((state = 'settled') = (credited > 0)),
        CHECK ((state = 'settled') = (event_id IS NOT NULL))
    )
    """,
    "CREATE UNIQUE INDEX payment_of_suffix ON billing.payments (address, suffix) WHERE suffix IS NOT NULL",
    "CREATE UNIQUE INDEX payment_of_intent ON billing.payments (intent_id) WHERE intent_id IS NOT NULL",
    "CREATE INDEX open_payments ON billing.payments (check_at) WHERE state IN ('pending', 'confirming')",
    """
    CREATE TABLE billing.payment_reversals (
        object_id text PRIMARY KEY,
        payment_id uuid NOT NULL REFERENCES billing.payments (id),
        amount bigint NOT NULL CHECK (amount BETWEEN 1 AND 9007199254740992),
        changed_at timestamptz NOT NULL DEFAULT now()
    )
    """,
    "CREATE INDEX reversals_of_payment ON billing.payment_reversals (payment_id)",
    """
    CREATE TABLE billing.crypto_transfers (
        transaction_id text NOT NULL,
        position integer NOT NULL CHECK (position >= 0),
        address text NOT NULL,
        sender text NOT NULL,
        amount_micro_usdt bigint NOT NULL CHECK (amount_micro_usdt > 0),
        state text NOT NULL DEFAULT 'seen' CHECK (state IN ('seen', 'settled', 'dropped', 'unmatched')),
        payment_id uuid REFERENCES billing.payments (id),
        reason text NOT NULL DEFAULT '',
        arrived_at timestamptz NOT NULL,
        seen_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (transaction_id, position),
        CHECK (state <> 'settled' OR payment_id IS NOT NULL),
        CHECK (state <> 'unmatched' OR payment_id IS NULL)
    )
    """,
    """
    CREATE UNIQUE INDEX transfer_of_payment ON billing.crypto_transfers (payment_id)
        WHERE payment_id IS NOT NULL AND state <> 'dropped'
    """,
    "CREATE INDEX seen_crypto_transfers ON billing.crypto_transfers (seen_at) WHERE state = 'seen'",
    """
    CREATE TABLE billing.crypto_watches (
        address text PRIMARY KEY,
        seen_until timestamptz NOT NULL,
        claimed_by uuid,
        claimed_until timestamptz NOT NULL DEFAULT 'epoch'
    )
    """,
    f"""
    REVOKE ALL ON billing.payments, billing.payment_reversals, billing.crypto_transfers, billing.crypto_watches
        FROM {_ROLE}
    """,
    f"""
    GRANT SELECT, INSERT, UPDATE ON billing.payments, billing.payment_reversals, billing.crypto_transfers,
        billing.crypto_watches TO {_ROLE}
    """,
)


def upgrade() -> None:
    """Makes everything."""
    for statement in _STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """Never: what is wrong is put right by the next one."""
    raise NotImplementedError("migrations only go forward")
