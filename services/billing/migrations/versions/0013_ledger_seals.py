"""Seals: a hash chain over closed batches of transfers, and the queue in which a transfer waits for its batch.

The trigger is the queue's only writer: no code path can forget it, and the service's role may not pass it by. Seals and
queue have no foreign keys: a transfer that somebody removed with all rights must stay named here.
"""

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

_ROLE = "tollbridge_billing"

_STATEMENTS = (
    """
    CREATE TABLE billing.ledger_seals (
        n bigint PRIMARY KEY CHECK (n > 0),
        previous bytea NOT NULL UNIQUE CHECK (length(previous) = 32),
        hash bytea NOT NULL UNIQUE CHECK (length(hash) = 32),
        transfer_ids uuid[] NOT NULL CHECK (cardinality(transfer_ids) > 0),
        emptied boolean NOT NULL,
        sealed_at timestamptz NOT NULL DEFAULT now()
    )
    """,
    "CREATE TABLE billing.unsealed (transfer_id uuid PRIMARY KEY)",
    "LOCK TABLE billing.transfers IN SHARE ROW EXCLUSIVE MODE",
    """
    CREATE FUNCTION billing.wait_for_seal() RETURNS trigger
        LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
    BEGIN
        INSERT INTO billing.unsealed SELECT id FROM made;
        RETURN NULL;
    END $$
    """,
    "REVOKE ALL ON FUNCTION billing.wait_for_seal() FROM PUBLIC",
    """
    CREATE TRIGGER transfers_wait_for_seal AFTER INSERT ON billing.transfers
        REFERENCING NEW TABLE AS made FOR EACH STATEMENT EXECUTE FUNCTION billing.wait_for_seal()
    """,
    "INSERT INTO billing.unsealed SELECT id FROM billing.transfers",
    """
    CREATE TRIGGER seals_are_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON billing.ledger_seals
        FOR EACH STATEMENT EXECUTE FUNCTION billing.refuse_change()
    """,
    f"REVOKE ALL ON billing.ledger_seals, billing.unsealed FROM {_ROLE}",
    f"GRANT SELECT, INSERT ON billing.ledger_seals TO {_ROLE}",
    f"GRANT SELECT, DELETE ON billing.unsealed TO {_ROLE}",
)


def upgrade() -> None:
    """Makes both tables and the trigger; everything so far waits for the first seals."""
    for statement in _STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """Never: what is wrong is put right by the next one."""
    raise NotImplementedError("migrations only go forward")
