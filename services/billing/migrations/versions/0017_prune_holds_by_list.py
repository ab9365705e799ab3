"""Prunes holds by a list of ids: joined with what it had found, the deletion could still read the whole table."""

from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

_LEAST_DAYS = 40

_PRUNE = f"""
    CREATE OR REPLACE FUNCTION billing.prune_holds(kept_days integer, most integer) RETURNS integer
        LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog SET lock_timeout = '2s'
        SET plan_cache_mode = 'force_custom_plan' AS $$
    DECLARE
        oldest timestamptz := now() - kept_days * interval '1 day';
        bound uuid := billing.lowest_uuid7((now() AT TIME ZONE 'UTC')::date - kept_days);
        dropped integer := 0;
    BEGIN
        IF kept_days < {_LEAST_DAYS} THEN
            RAISE EXCEPTION 'holds are kept for {_LEAST_DAYS} days at least';
        END IF;
        DELETE FROM billing.holds WHERE id = ANY(ARRAY(
            SELECT id FROM billing.holds
            WHERE id < bound AND state <> 'open' AND granted_at < oldest AND expires_at < oldest
            ORDER BY id LIMIT most FOR UPDATE SKIP LOCKED));
        GET DIAGNOSTICS dropped = ROW_COUNT;
        RETURN dropped;
    END $$
"""


def upgrade() -> None:
    """Replaces the function; its owner and grants stay."""
    op.execute(_PRUNE)


def downgrade() -> None:
    """Never: what is wrong is put right by the next one."""
    raise NotImplementedError("migrations only go forward")
