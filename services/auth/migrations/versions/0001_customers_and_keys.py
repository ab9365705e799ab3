"""Customers, keys, claims of idempotent calls, and the numbered changes that replicas poll."""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_STATEMENTS = (
    """
    CREATE TABLE auth.customers (
        id uuid PRIMARY KEY,
        name text NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
        email text NOT NULL DEFAULT '' CHECK (length(email) <= 320),
        plan text NOT NULL DEFAULT '',
        status text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'suspended', 'banned')),
        created_at_us bigint NOT NULL CHECK (created_at_us > 0)
    )
    """,
    """
    CREATE TABLE auth.api_keys (
        id uuid PRIMARY KEY,
        customer_id uuid NOT NULL REFERENCES auth.customers (id),
        name text NOT NULL,
        shown_prefix text NOT NULL,
        digest bytea NOT NULL UNIQUE CHECK (octet_length(digest) = 32),
        pepper_version smallint NOT NULL,
        seed bytea CHECK (octet_length(seed) = 32),
        models text[] NOT NULL,
        requests_per_minute bigint NOT NULL CHECK (requests_per_minute >= 0),
        tokens_per_minute bigint NOT NULL CHECK (tokens_per_minute >= 0),
        concurrent bigint NOT NULL CHECK (concurrent >= 0),
        spend_cap_nano_usd bigint CHECK (spend_cap_nano_usd > 0),
        spend_cap_per text CHECK (spend_cap_per IN ('day', 'month', 'total')),
        allowed_ips text[] NOT NULL,
        expires_at_us bigint NOT NULL CHECK (expires_at_us >= 0),
        created_at_us bigint NOT NULL CHECK (created_at_us > 0),
        revoked_at_us bigint NOT NULL DEFAULT 0 CHECK (revoked_at_us >= 0),
        CHECK ((spend_cap_nano_usd IS NULL) = (spend_cap_per IS NULL))
    )
    """,
    "CREATE INDEX api_keys_of_customer ON auth.api_keys (customer_id, id)",
    "CREATE INDEX api_keys_with_seed ON auth.api_keys (created_at_us) WHERE seed IS NOT NULL",
    """
    CREATE TABLE auth.claims (
        request_id text PRIMARY KEY CHECK (length(request_id) BETWEEN 1 AND 200),
        method text NOT NULL,
        fingerprint bytea NOT NULL,
        object_id uuid NOT NULL,
        claimed_at_us bigint NOT NULL
    )
    """,
    "CREATE INDEX claims_by_age ON auth.claims (claimed_at_us)",
    """
    CREATE TABLE auth.change_clock (
        one boolean PRIMARY KEY DEFAULT true CHECK (one),
        number bigint NOT NULL
    )
    """,
    "INSERT INTO auth.change_clock (number) VALUES (0)",
    """
    CREATE TABLE auth.changes (
        number bigint PRIMARY KEY,
        event_id uuid NOT NULL UNIQUE,
        key_id uuid,
        customer_id uuid NOT NULL,
        made_at_us bigint NOT NULL,
        published_at_us bigint NOT NULL DEFAULT 0
    )
    """,
    "CREATE INDEX changes_to_publish ON auth.changes (number) WHERE published_at_us = 0",
)


def upgrade() -> None:
    """Makes the tables."""
    for statement in _STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """Never: what is wrong is put right by the next one."""
    raise NotImplementedError("migrations only go forward")
