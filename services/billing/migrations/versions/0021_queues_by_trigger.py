"""What a transfer needs beside its row is seen to once for all rows of a statement, and no longer row by row.

The trigger that makes a transfer wait for its seal now puts it into the outbox too, so both queues have every transfer
and nothing else. Foreign keys asked about each row, a third of what writing transfers cost. In their place: a
transfer's customer and the transfer that it reverses must exist, each asked about once; neither ever goes away, since
transfers are append-only, and an account that has transfers is now refused its end as well.
"""

from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

_STATEMENTS = (
    # In the order of whoever settles meanwhile, else both would wait for each other.
    "LOCK TABLE billing.ledger_accounts, billing.transfers, billing.outbox IN ACCESS EXCLUSIVE MODE",
    "DROP TRIGGER transfers_wait_for_seal ON billing.transfers",
    "DROP FUNCTION billing.wait_for_seal()",
    """
    CREATE FUNCTION billing.queue_transfers() RETURNS trigger
        LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
    DECLARE
        customer text;
        reversed uuid;
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
        INSERT INTO billing.unsealed SELECT id FROM made;
        INSERT INTO billing.outbox (transfer_id) SELECT id FROM made ORDER BY version;
        RETURN NULL;
    END $$
    """,
    "REVOKE ALL ON FUNCTION billing.queue_transfers() FROM PUBLIC",
    """
    CREATE TRIGGER transfers_are_queued AFTER INSERT ON billing.transfers
        REFERENCING NEW TABLE AS made FOR EACH STATEMENT EXECUTE FUNCTION billing.queue_transfers()
    """,
    "ALTER TABLE billing.outbox DROP CONSTRAINT outbox_transfer_id_fkey",
    """
    ALTER TABLE billing.transfers
        DROP CONSTRAINT transfers_customer_id_fkey,
        DROP CONSTRAINT transfers_reverses_fkey,
        DROP CONSTRAINT transfers_reverses_leg_key
    """,
    # As before, but what reverses nothing need not be in it.
    "CREATE UNIQUE INDEX transfers_reverses_leg_key ON billing.transfers (reverses, leg) WHERE reverses IS NOT NULL",
    """
    CREATE FUNCTION billing.refuse_end_of_account() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION 'the account % has transfers', OLD.customer_id USING ERRCODE = 'foreign_key_violation';
    END $$
    """,
    """
    CREATE TRIGGER accounts_with_transfers_stay BEFORE DELETE OR UPDATE OF customer_id ON billing.ledger_accounts
        FOR EACH ROW WHEN (OLD.version > 0) EXECUTE FUNCTION billing.refuse_end_of_account()
    """,
    """
    CREATE TRIGGER accounts_are_not_truncated BEFORE TRUNCATE ON billing.ledger_accounts
        FOR EACH STATEMENT EXECUTE FUNCTION billing.refuse_change()
    """,
)


def upgrade() -> None:
    """Puts the trigger in the foreign keys' place."""
    for statement in _STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """Never: what is wrong is put right by the next one."""
    raise NotImplementedError("migrations only go forward")
