"""What is dropped when its time is over: days of the usage log, and holds that resolved long ago. Transfers never.

The service's role still may delete nothing itself; both functions refuse what is younger than forty days, whatever a
config file says, because streams and spools may still bring duplicates of it.
"""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_ROLE = "tollbridge_billing"
_LEAST_DAYS = 40

_STATEMENTS = (
    """
    CREATE TABLE billing.usage_log (
        only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
        kept_from uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000'
    )
    """,
    "INSERT INTO billing.usage_log DEFAULT VALUES",
    f"REVOKE ALL ON billing.usage_log FROM {_ROLE}",
    f"GRANT SELECT ON billing.usage_log TO {_ROLE}",
    # Holds are granted in order of time, and a block range index costs a settlement nothing.
    "CREATE INDEX holds_by_time ON billing.holds USING brin (granted_at)",
    f"""
    CREATE FUNCTION billing.drop_usage(kept_days integer, most integer) RETURNS integer
        LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog SET lock_timeout = '2s' AS $$
    DECLARE
        oldest date := (now() AT TIME ZONE 'UTC')::date - kept_days;
        bound uuid := billing.lowest_uuid7(oldest);
        name text;
        dropped integer := 0;
    BEGIN
        IF kept_days < {_LEAST_DAYS} THEN
            RAISE EXCEPTION 'the usage log is kept for {_LEAST_DAYS} days at least';
        END IF;
        UPDATE billing.usage_log SET kept_from = bound WHERE kept_from < bound;
        SELECT c.relname INTO name FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'billing.usage_events'::regclass AND c.relname ~ '^usage_events_[0-9]{{8}}$'
            AND to_date(right(c.relname, 8), 'YYYYMMDD') < oldest
        ORDER BY c.relname LIMIT 1;
        IF name IS NOT NULL THEN
            EXECUTE format('DROP TABLE billing.%I', name);
            RETURN 1;
        END IF;
        DELETE FROM billing.usage_events_rest WHERE (request_id, kind) IN (
            SELECT request_id, kind FROM billing.usage_events_rest WHERE request_id < bound LIMIT most);
        GET DIAGNOSTICS dropped = ROW_COUNT;
        RETURN dropped;
    END $$
    """,
    f"""
    CREATE FUNCTION billing.prune_holds(kept_days integer, most integer) RETURNS integer
        LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog SET lock_timeout = '2s' AS $$
    DECLARE
        oldest timestamptz := now() - kept_days * interval '1 day';
        dropped integer := 0;
    BEGIN
        IF kept_days < {_LEAST_DAYS} THEN
            RAISE EXCEPTION 'holds are kept for {_LEAST_DAYS} days at least';
        END IF;
        DELETE FROM billing.holds WHERE id IN (
            SELECT id FROM billing.holds WHERE granted_at < oldest AND expires_at < oldest AND state <> 'open'
            LIMIT most FOR UPDATE SKIP LOCKED);
        GET DIAGNOSTICS dropped = ROW_COUNT;
        RETURN dropped;
    END $$
    """,
    "REVOKE ALL ON FUNCTION billing.drop_usage(integer, integer) FROM PUBLIC",
    "REVOKE ALL ON FUNCTION billing.prune_holds(integer, integer) FROM PUBLIC",
    f"GRANT EXECUTE ON FUNCTION billing.drop_usage(integer, integer) TO {_ROLE}",
    f"GRANT EXECUTE ON FUNCTION billing.prune_holds(integer, integer) TO {_ROLE}",
)


def upgrade() -> None:
    """Adds the log's beginning and both functions."""
    for statement in _STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """Never: what is wrong is put right by the next one."""
    raise NotImplementedError("migrations only go forward")
