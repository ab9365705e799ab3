"""What a customer is shown of an order, beside its body, which may be large: a list of videos reads many of them."""

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_STATEMENTS = (
    "ALTER TABLE tasks.tasks ADD COLUMN shown bytea NOT NULL DEFAULT ''",
    "CREATE INDEX tasks_of_customer_by_kind ON tasks.tasks (customer_id, kind, id)",
)


def upgrade() -> None:
    """Of the orders that there are it is empty: it is read from the body."""
    for statement in _STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """Never: what is wrong is put right by the next one."""
    raise NotImplementedError("migrations only go forward")
