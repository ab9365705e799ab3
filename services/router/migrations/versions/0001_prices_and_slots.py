"""Price versions that never change, accounts with limited slots, a row per slot taken, spenders' statements."""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_ROLE = "tollbridge_router"
_STATEMENTS = (
    """
    CREATE TABLE router.price_versions (
        id text PRIMARY KEY CHECK (id ~ '^[0-9a-f]{64}$'),
        content jsonb NOT NULL,
        stored_at timestamptz NOT NULL DEFAULT now()
    )
    """,
    """
    CREATE FUNCTION router.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION 'router.% is append-only', TG_TABLE_NAME USING ERRCODE = 'insufficient_privilege';
    END $$
    """,
    """
    CREATE TRIGGER price_versions_never_change BEFORE UPDATE OR DELETE OR TRUNCATE ON router.price_versions
        FOR EACH STATEMENT EXECUTE FUNCTION router.refuse_change()
    """,
    f"REVOKE UPDATE, DELETE, TRUNCATE ON router.price_versions FROM {_ROLE}",
    # in_use may exceed slots only after an operator has lowered them; taking one is refused until it no longer does
    """
    CREATE TABLE router.provider_accounts (
        id text PRIMARY KEY,
        slots bigint NOT NULL CHECK (slots > 0),
        in_use bigint NOT NULL DEFAULT 0 CHECK (in_use >= 0)
    )
    """,
    """
    CREATE TABLE router.slots (
        attempt_id uuid PRIMARY KEY,
        request_id uuid NOT NULL,
        account_id text NOT NULL REFERENCES router.provider_accounts (id),
        spender uuid NOT NULL,
        taken_at timestamptz NOT NULL DEFAULT clock_timestamp()
    )
    """,
    "CREATE INDEX slots_of_spender ON router.slots (spender)",
    """
    CREATE TABLE router.spenders (
        id uuid PRIMARY KEY,
        stated_at timestamptz NOT NULL DEFAULT clock_timestamp()
    )
    """,
)


def upgrade() -> None:
    """Makes the tables."""
    for statement in _STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """Never: what is wrong is put right by the next one."""
    raise NotImplementedError("migrations only go forward")
