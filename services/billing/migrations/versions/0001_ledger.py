"""The ledger: accounts, append-only transfers, holds, usage events by day, dead letters, outbox, price versions."""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_ROLE = "tollbridge_billing"

# 9007199254740992 is pricing.charge.MAX_CHARGE (2^53); 10^18 is services.billing.ledger.MAX_BALANCE.
_TABLES = (
    """
    CREATE TABLE billing.ledger_accounts (
        customer_id text PRIMARY KEY CHECK (length(customer_id) BETWEEN 1 AND 64),
        posted bigint NOT NULL DEFAULT 0 CHECK (posted BETWEEN 0 AND 1000000000000000000),
        held bigint NOT NULL DEFAULT 0 CHECK (held BETWEEN 0 AND 1000000000000000000),
        credited bigint NOT NULL DEFAULT 0 CHECK (credited BETWEEN 0 AND 4000000000000000000),
        used bigint NOT NULL DEFAULT 0 CHECK (used BETWEEN 0 AND 4000000000000000000),
        version bigint NOT NULL DEFAULT 0 CHECK (version >= 0),
        opened_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT no_overspend CHECK (posted - held >= 0),
        CONSTRAINT posted_is_credited_less_used CHECK (posted = credited - used)
    ) WITH (fillfactor = 50)
    """,
    """
    CREATE TABLE billing.transfers (
        id uuid PRIMARY KEY,
        debit text NOT NULL,
        credit text NOT NULL,
        amount bigint NOT NULL CHECK (amount BETWEEN 1 AND 9007199254740992),
        kind text NOT NULL CHECK (kind IN ('charge', 'refund', 'adjustment', 'welcome', 'payment')),
        event_id text NOT NULL CHECK (length(event_id) BETWEEN 1 AND 200),
        leg smallint NOT NULL CHECK (leg >= 0),
        reverses uuid REFERENCES billing.transfers (id),
        request_id uuid,
        reason text NOT NULL DEFAULT '',
        customer_id text REFERENCES billing.ledger_accounts (customer_id),
        version bigint CHECK (version > 0),
        balance_after bigint CHECK (balance_after BETWEEN 0 AND 1000000000000000000),
        created_at timestamptz NOT NULL DEFAULT now(),
        UNIQUE (event_id, leg),
        UNIQUE (reverses, leg),
        UNIQUE (customer_id, version),
        CHECK (debit <> credit),
        CHECK (num_nulls(customer_id, version, balance_after) IN (0, 3)),
        CHECK ((customer_id IS NOT NULL) = (debit LIKE 'credits:%' OR credit LIKE 'credits:%')),
        CHECK (coalesce(debit = 'credits:' || customer_id, false) OR debit IN ('revenue', 'provider_cost',
            'overage_loss', 'bad_debt', 'promotions', 'clearing:stripe', 'clearing:crypto', 'adjustments')),
        CHECK (coalesce(credit = 'credits:' || customer_id, false) OR credit IN ('revenue', 'provider_cost',
            'overage_loss', 'bad_debt', 'promotions', 'clearing:stripe', 'clearing:crypto', 'adjustments'))
    )
    """,
    "CREATE INDEX transfers_of_request ON billing.transfers (request_id) WHERE request_id IS NOT NULL",
    """
    CREATE TABLE billing.holds (
        id uuid PRIMARY KEY,
        customer_id text NOT NULL REFERENCES billing.ledger_accounts (customer_id),
        kind text NOT NULL CHECK (kind IN ('lease', 'task', 'exact')),
        spender text NOT NULL,
        amount bigint NOT NULL CHECK (amount BETWEEN 1 AND 9007199254740992),
        captured bigint NOT NULL DEFAULT 0 CHECK (captured BETWEEN 0 AND amount),
        freed bigint NOT NULL DEFAULT 0 CHECK (freed BETWEEN 0 AND amount),
        stated bigint NOT NULL CHECK (stated >= 0),
        state text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'settled', 'expired')),
        lapsed boolean NOT NULL DEFAULT false,
        pinned boolean NOT NULL DEFAULT false,
        request_id uuid,
        key_id text NOT NULL DEFAULT '',
        granted_at timestamptz NOT NULL DEFAULT now(),
        expires_at timestamptz NOT NULL,
        CHECK (captured + freed <= amount),
        CHECK (state = 'open' OR captured + freed = amount)
    ) WITH (fillfactor = 70)
    """,
    "CREATE INDEX open_holds_by_expiry ON billing.holds (expires_at) WHERE state = 'open'",
    "CREATE INDEX open_holds_of_spender ON billing.holds (spender) WHERE state = 'open'",
    "CREATE INDEX holds_of_request ON billing.holds (request_id) WHERE request_id IS NOT NULL",
    """
    CREATE TABLE billing.usage_events (
        request_id uuid NOT NULL,
        kind text NOT NULL CHECK (kind IN ('charge', 'void', 'refund')),
        customer_id text NOT NULL,
        key_id text NOT NULL,
        model text NOT NULL,
        operation text NOT NULL,
        prompt_tokens bigint NOT NULL CHECK (prompt_tokens >= 0),
        completion_tokens bigint NOT NULL CHECK (completion_tokens >= 0),
        charge bigint NOT NULL CHECK (charge BETWEEN -9007199254740992 AND 9007199254740992),
        taken bigint NOT NULL CHECK (taken BETWEEN -9007199254740992 AND 9007199254740992),
        overage bigint NOT NULL CHECK (overage BETWEEN 0 AND 9007199254740992),
        provider_cost bigint NOT NULL CHECK (provider_cost BETWEEN 0 AND 9007199254740992),
        recorded bytea NOT NULL,
        applied_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (request_id, kind),
        CHECK (charge = taken + overage),
        CHECK (kind <> 'void' OR charge = 0)
    ) PARTITION BY RANGE (request_id)
    """,
    "CREATE INDEX usage_of_customer ON billing.usage_events (customer_id, request_id DESC)",
    "CREATE TABLE billing.usage_events_rest PARTITION OF billing.usage_events DEFAULT",
    """
    CREATE TABLE billing.dead_letters (
        id uuid PRIMARY KEY,
        digest bytea NOT NULL UNIQUE,
        request_id uuid,
        kind text NOT NULL,
        customer_id text NOT NULL,
        hold_id uuid,
        reason text NOT NULL,
        recorded bytea NOT NULL,
        arrived_at timestamptz NOT NULL DEFAULT now(),
        resolved_at timestamptz
    )
    """,
    "CREATE INDEX dead_letters_of_request ON billing.dead_letters (request_id) WHERE request_id IS NOT NULL",
    """
    CREATE TABLE billing.outbox (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        transfer_id uuid NOT NULL REFERENCES billing.transfers (id)
    )
    """,
    """
    CREATE TABLE billing.price_versions (
        id text PRIMARY KEY CHECK (id ~ '^[0-9a-f]{64}$'),
        content bytea NOT NULL,
        stored_at timestamptz NOT NULL DEFAULT now()
    )
    """,
)

_FUNCTIONS = (
    """
    CREATE FUNCTION billing.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION 'billing.% is append-only: a correction is a new row', TG_TABLE_NAME
            USING ERRCODE = 'restrict_violation';
    END $$
    """,
    """
    CREATE TRIGGER transfers_are_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON billing.transfers
        FOR EACH STATEMENT EXECUTE FUNCTION billing.refuse_change()
    """,
    """
    CREATE TRIGGER prices_are_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON billing.price_versions
        FOR EACH STATEMENT EXECUTE FUNCTION billing.refuse_change()
    """,
    # The service's role owns no table, so that it can't give itself what is revoked below: partitions are made for it.
    """
    CREATE FUNCTION billing.make_partitions(days integer) RETURNS integer
        LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog SET lock_timeout = '2s' AS $$
    DECLARE
        today date := (now() AT TIME ZONE 'UTC')::date;
        made integer := 0;
        day date;
        name text;
    BEGIN
        IF days NOT BETWEEN 0 AND 30 THEN
            RAISE EXCEPTION 'at most 30 days ahead';
        END IF;
        PERFORM pg_advisory_xact_lock(hashtext('billing.make_partitions'));
        FOR ahead IN 0..days LOOP
            day := today + ahead;
            name := 'usage_events_' || to_char(day, 'YYYYMMDD');
            CONTINUE WHEN to_regclass('billing.' || name) IS NOT NULL;
            EXECUTE format('CREATE TABLE billing.%I PARTITION OF billing.usage_events FOR VALUES FROM (%L) TO (%L)',
                name, billing.lowest_uuid7(day), billing.lowest_uuid7(day + 1));
            EXECUTE format('REVOKE ALL ON billing.%I FROM tollbridge_billing', name);
            made := made + 1;
        END LOOP;
        RETURN made;
    END $$
    """,
    """
    CREATE FUNCTION billing.lowest_uuid7(day date) RETURNS uuid
        LANGUAGE sql IMMUTABLE SET search_path = pg_catalog AS $$
        SELECT (lpad(to_hex((day - DATE '1970-01-01')::bigint * 86400000), 12, '0') || repeat('0', 20))::uuid
    $$
    """,
    "SELECT billing.make_partitions(7)",
)

_GRANTS = (
    # A schema's tables are the role's to change by default; here it gets only what the ledger needs.
    f"REVOKE ALL ON ALL TABLES IN SCHEMA billing FROM {_ROLE}",
    f"GRANT SELECT ON ALL TABLES IN SCHEMA billing TO {_ROLE}",
    f"""GRANT INSERT ON billing.ledger_accounts, billing.transfers, billing.holds, billing.usage_events,
        billing.dead_letters, billing.outbox, billing.price_versions TO {_ROLE}""",
    f"GRANT UPDATE ON billing.ledger_accounts, billing.holds, billing.dead_letters TO {_ROLE}",
    f"GRANT UPDATE, DELETE ON billing.outbox TO {_ROLE}",
    f"REVOKE UPDATE, DELETE, TRUNCATE ON billing.transfers FROM {_ROLE}",
    "REVOKE ALL ON FUNCTION billing.make_partitions(integer) FROM PUBLIC",
    f"GRANT EXECUTE ON FUNCTION billing.make_partitions(integer) TO {_ROLE}",
)


def upgrade() -> None:
    """Makes everything."""
    for statement in (*_TABLES, *_FUNCTIONS, *_GRANTS):
        op.execute(statement)


def downgrade() -> None:
    """Never: what is wrong is put right by the next one."""
    raise NotImplementedError("migrations only go forward")
