"""A day whose partition can't be made keeps no other day from its own.

One row of that day in the default partition is enough to refuse it, and that row stays there.
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Replaces the function; a busy table still ends the whole call, which is repeated an hour later."""
    op.execute(
        """
        CREATE OR REPLACE FUNCTION billing.make_partitions(days integer) RETURNS integer
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
                BEGIN
                    EXECUTE format('CREATE TABLE billing.%I PARTITION OF billing.usage_events'
                        ' FOR VALUES FROM (%L) TO (%L)',
                        name, billing.lowest_uuid7(day), billing.lowest_uuid7(day + 1));
                    EXECUTE format('REVOKE ALL ON billing.%I FROM tollbridge_billing', name);
                    made := made + 1;
                EXCEPTION
                    WHEN lock_not_available THEN RAISE;
                    WHEN OTHERS THEN RAISE WARNING 'no partition %: %', name, SQLERRM;
                END;
            END LOOP;
            RETURN made;
        END $$
        """
    )


def downgrade() -> None:
    """Never: what is wrong is put right by the next one."""
    raise NotImplementedError("migrations only go forward")
