"""Tasks, their results, and the outbox that their settlement leaves by."""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_STATEMENTS = (
    """
    CREATE TABLE tasks.tasks (
        id uuid PRIMARY KEY,
        customer_id uuid NOT NULL,
        key_id text NOT NULL DEFAULT '',
        kind text NOT NULL CHECK (kind IN ('image', 'speech', 'video')),
        model text NOT NULL,
        body bytea NOT NULL,
        fingerprint bytea NOT NULL,
        price_version text NOT NULL,
        hold_id uuid NOT NULL UNIQUE,
        hold_nano_usd bigint NOT NULL CHECK (hold_nano_usd >= 0),
        traceparent text NOT NULL DEFAULT '',
        status text NOT NULL DEFAULT 'pending'
            CHECK (status IN ('pending', 'running', 'succeeded', 'failed', 'cancelled')),
        claims integer NOT NULL DEFAULT 0,
        spender text NOT NULL DEFAULT '',
        lease_until_us bigint NOT NULL DEFAULT 0,
        announced_at_us bigint NOT NULL,
        created_at_us bigint NOT NULL,
        deadline_us bigint NOT NULL,
        started_at_us bigint NOT NULL DEFAULT 0,
        finished_at_us bigint NOT NULL DEFAULT 0,
        charge_nano_usd bigint NOT NULL DEFAULT 0 CHECK (charge_nano_usd >= 0),
        error_code text NOT NULL DEFAULT '',
        error_message text NOT NULL DEFAULT '',
        provider_task_id text NOT NULL DEFAULT '',
        CHECK ((finished_at_us > 0) = (status IN ('succeeded', 'failed', 'cancelled'))),
        CHECK (charge_nano_usd = 0 OR status = 'succeeded'),
        CHECK ((error_code <> '') = (status = 'failed'))
    )
    """,
    "CREATE INDEX tasks_of_customer ON tasks.tasks (customer_id, id)",
    "CREATE INDEX tasks_open ON tasks.tasks (id) WHERE status IN ('pending', 'running')",
    """
    CREATE TABLE tasks.results (
        file_id uuid PRIMARY KEY,
        task_id uuid NOT NULL REFERENCES tasks.tasks (id),
        position integer NOT NULL,
        content_type text NOT NULL,
        size_bytes bigint NOT NULL CHECK (size_bytes >= 0),
        UNIQUE (task_id, position)
    )
    """,
    """
    CREATE TABLE tasks.outbox (
        number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        event_id uuid NOT NULL UNIQUE,
        kind text NOT NULL CHECK (kind IN ('run', 'usage', 'finished')),
        task_id uuid NOT NULL REFERENCES tasks.tasks (id),
        payload bytea NOT NULL,
        traceparent text NOT NULL DEFAULT '',
        made_at_us bigint NOT NULL,
        published_at_us bigint NOT NULL DEFAULT 0,
        times_published integer NOT NULL DEFAULT 0
    )
    """,
    "CREATE INDEX outbox_to_publish ON tasks.outbox (number) WHERE published_at_us = 0",
    "CREATE UNIQUE INDEX outbox_one_settlement ON tasks.outbox (task_id) WHERE kind = 'usage'",
)


def upgrade() -> None:
    """Makes the tables."""
    for statement in _STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """Never: what is wrong is put right by the next one."""
    raise NotImplementedError("migrations only go forward")
