"""What one statement wrote has one order in the queues, also where versions of several customers are the same.

Whoever remembers what it wrote finds it again by the first of its transfers.
"""

from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None

_QUEUE = """
    CREATE OR REPLACE FUNCTION billing.queue_transfers() RETURNS trigger
        LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
    DECLARE
        customer text;
        reversed uuid;
        ids uuid[];
    BEGIN
        FOR customer IN SELECT DISTINCT customer_id FROM made WHERE customer_id IS NOT NULL LOOP
            PERFORM FROM billing.ledger_accounts a WHERE a.customer_id = customer;
            IF NOT FOUND THEN
                RAISE EXCEPTION 'a transfer names the customer %, who has no account', customer
                    USING ERRCODE = 'foreign_key_violation';
            END IF;
        END LOOP;
        FOR reversed IN SELECT reverses FROM made WHERE reverses IS NOT NULL LOOP
            PERFORM FROM billing.transfers t WHERE t.id = reversed;
            IF NOT FOUND THEN
                RAISE EXCEPTION 'a transfer reverses %, which does not exist', reversed
                    USING ERRCODE = 'foreign_key_violation';
            END IF;
        END LOOP;
        SELECT array_agg(id ORDER BY version, id) INTO ids FROM made;
        IF ids IS NOT NULL THEN
            INSERT INTO billing.unsealed (transfer_ids) VALUES (ids);
            INSERT INTO billing.outbox (transfer_ids) VALUES (ids);
        END IF;
        RETURN NULL;
    END $$
"""


def upgrade() -> None:
    """Changes what fills both queues."""
    op.execute(_QUEUE)


def downgrade() -> None:
    """Never: what is wrong is put right by the next one."""
    raise NotImplementedError("migrations only go forward")
