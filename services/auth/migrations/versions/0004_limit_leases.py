"""Limits are leases counted in windows: who holds how much of which limit, and what was spent when."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_STATEMENTS = (
    """
    CREATE TABLE auth.limit_spenders (
        id uuid PRIMARY KEY,
        stated_at timestamptz NOT NULL DEFAULT clock_timestamp()
    )
    """,
    """
    CREATE TABLE auth.limit_leases (
        spender uuid NOT NULL,
        subject uuid NOT NULL,
        kind smallint NOT NULL CHECK (kind BETWEEN 1 AND 3),
        held bigint NOT NULL CHECK (held >= 0),
        spent bigint NOT NULL CHECK (spent >= 0),
        since bigint NOT NULL,
        number bigint NOT NULL,
        PRIMARY KEY (spender, subject, kind)
    )
    """,
    "CREATE INDEX limit_leases_of_subject ON auth.limit_leases (subject, kind)",
    """
    CREATE TABLE auth.limit_counts (
        subject uuid NOT NULL,
        kind smallint NOT NULL CHECK (kind IN (1, 2)),
        bucket bigint NOT NULL,
        units bigint NOT NULL CHECK (units > 0),
        PRIMARY KEY (subject, kind, bucket)
    )
    """,
    # These rows live for a minute: tables as short as this are cheap to clean, and dear to read when they are not.
    """
    ALTER TABLE auth.limit_counts SET (
        autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0
    )
    """,
    """
    ALTER TABLE auth.limit_leases SET (
        fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000
    )
    """,
)


def upgrade() -> None:
    """Makes the tables. No CHECK can hold the sum of a limit: limits are lowered, and true tokens learnt afterwards."""
    for statement in _STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """Never: what is wrong is put right by the next one."""
    raise NotImplementedError("migrations only go forward")
