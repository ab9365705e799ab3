"""Webhooks that tell of a task's end, and when billing was last asked about a settlement."""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_STATEMENTS = (
    """
    ALTER TABLE tasks.tasks
        ADD COLUMN webhook_url text NOT NULL DEFAULT '',
        ADD COLUMN files_url text NOT NULL DEFAULT ''
    """,
    """
    CREATE TABLE tasks.webhook_secrets (
        customer_id uuid PRIMARY KEY,
        key_version integer NOT NULL,
        number integer NOT NULL CHECK (number > 0)
    )
    """,
    """
    CREATE TABLE tasks.webhooks (
        id uuid PRIMARY KEY,
        task_id uuid NOT NULL UNIQUE REFERENCES tasks.tasks (id),
        customer_id uuid NOT NULL,
        url text NOT NULL CHECK (length(url) <= 2000),
        body bytea NOT NULL,
        tries integer NOT NULL DEFAULT 0,
        problem text NOT NULL DEFAULT '',
        made_at_us bigint NOT NULL,
        try_at_us bigint NOT NULL,
        ended_at_us bigint NOT NULL DEFAULT 0
    )
    """,
    "CREATE INDEX webhooks_on_their_way ON tasks.webhooks (customer_id, try_at_us) WHERE ended_at_us = 0",
    "CREATE INDEX webhooks_that_ended ON tasks.webhooks (ended_at_us) WHERE ended_at_us > 0",
    "ALTER TABLE tasks.outbox ADD COLUMN asked_at_us bigint NOT NULL DEFAULT 0",
    """
    CREATE INDEX outbox_to_confirm ON tasks.outbox (asked_at_us, number)
        WHERE published_at_us > 0 AND kind = 'usage'
    """,
)


def upgrade() -> None:
    """Adds columns, tables and indexes."""
    for statement in _STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """Never: what is wrong is put right by the next one."""
    raise NotImplementedError("migrations only go forward")
