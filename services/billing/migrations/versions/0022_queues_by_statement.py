"""Transfers wait for the bus and for their seal in one row for each statement that wrote them, no longer in one each.

Two rows and two index entries for each transfer, made and deleted again, were a third of what writing it cost. Both
queues are read as they were, from the oldest on; a row leaves whole.
"""

from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None

_STATEMENTS = (
    # Whoever writes transfers locks accounts first, and who empties a queue has that before it reads transfers.
    "LOCK TABLE billing.ledger_accounts, billing.unsealed, billing.outbox, billing.transfers IN ACCESS EXCLUSIVE MODE",
    """
    ALTER TABLE billing.outbox ADD COLUMN transfer_ids uuid[] CHECK (cardinality(transfer_ids) > 0)
    """,
    "UPDATE billing.outbox SET transfer_ids = ARRAY[transfer_id]",
    """
    ALTER TABLE billing.outbox ALTER COLUMN transfer_ids SET NOT NULL, DROP COLUMN transfer_id
    """,
    """
    ALTER TABLE billing.unsealed
        DROP CONSTRAINT unsealed_pkey,
        ADD COLUMN id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        ADD COLUMN transfer_ids uuid[] CHECK (cardinality(transfer_ids) > 0)
    """,
    "UPDATE billing.unsealed SET transfer_ids = ARRAY[transfer_id]",
    """
    ALTER TABLE billing.unsealed ALTER COLUMN transfer_ids SET NOT NULL, DROP COLUMN transfer_id
    """,
    """
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
        SELECT array_agg(id ORDER BY version) INTO ids FROM made;
        IF ids IS NOT NULL THEN
            INSERT INTO billing.unsealed (transfer_ids) VALUES (ids);
            INSERT INTO billing.outbox (transfer_ids) VALUES (ids);
        END IF;
        RETURN NULL;
    END $$
    """,
    # Random bits: trying to compress them is lost time.
    "ALTER TABLE billing.outbox ALTER COLUMN transfer_ids SET STORAGE EXTERNAL",
    "ALTER TABLE billing.unsealed ALTER COLUMN transfer_ids SET STORAGE EXTERNAL",
    "ALTER TABLE billing.ledger_seals ALTER COLUMN transfer_ids SET STORAGE EXTERNAL",
)


def upgrade() -> None:
    """Changes both queues and what fills them."""
    for statement in _STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """Never: what is wrong is put right by the next one."""
    raise NotImplementedError("migrations only go forward")
