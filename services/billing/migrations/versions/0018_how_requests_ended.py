"""How each request ended, so that what failed is listed without reading every line; unknown of lines made before."""

from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

_STATEMENTS = (
    """
    ALTER TABLE billing.usage_events ADD COLUMN ended text
        CHECK (ended IN ('complete', 'client_gone', 'upstream_failed', 'gateway_failed'))
    """,
    # What is complete is found soon enough in the log's own order, and is too much to be kept twice.
    "CREATE INDEX usage_not_complete ON billing.usage_events (request_id, ended) WHERE ended <> 'complete'",
)


def upgrade() -> None:
    """Adds it."""
    for statement in _STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """Never: what is wrong is put right by the next one."""
    raise NotImplementedError("migrations only go forward")
