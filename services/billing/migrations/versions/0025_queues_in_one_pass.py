"""What a statement wrote into transfers is looked through once for both queues and for whom it names, not three times.

From this version on a request's transfers are found by their events, `charge:<request>` and `refund:<request>`. The
index by request stays for the code of the version before, which reads by it while both run.
"""

from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None

_QUEUE = """
    CREATE OR REPLACE FUNCTION billing.queue_transfers() RETURNS trigger
        LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
    DECLARE
        ids uuid[];
        customers text[];
        reversals uuid[];
        customer text;
        reversed uuid;
    BEGIN
        SELECT array_agg(id ORDER BY version, id),
            array_agg(DISTINCT customer_id) FILTER (WHERE customer_id IS NOT NULL),
            array_agg(reverses) FILTER (WHERE reverses IS NOT NULL)
        INTO ids, customers, reversals FROM made;
        IF ids IS NULL THEN
            RETURN NULL;
        END IF;
        FOREACH customer IN ARRAY coalesce(customers, '{}') LOOP
            PERFORM FROM billing.ledger_accounts a WHERE a.customer_id = customer;
            IF NOT FOUND THEN
                RAISE EXCEPTION 'a transfer names the customer %, who has no account', customer
                    USING ERRCODE = 'foreign_key_violation';
            END IF;
        END LOOP;
        FOREACH reversed IN ARRAY coalesce(reversals, '{}') LOOP
            PERFORM FROM billing.transfers t WHERE t.id = reversed;
            IF NOT FOUND THEN
                RAISE EXCEPTION 'a transfer reverses %, which does not exist', reversed
                    USING ERRCODE = 'foreign_key_violation';
            END IF;
        END LOOP;
        INSERT INTO billing.unsealed (transfer_ids) VALUES (ids);
        INSERT INTO billing.outbox (transfer_ids) VALUES (ids);
        RETURN NULL;
    END $$
"""


def upgrade() -> None:
    """Replaces the function."""
    op.execute(_QUEUE)


def downgrade() -> None:
    """Never: what is wrong is put right by the next one."""
    raise NotImplementedError("migrations only go forward")
