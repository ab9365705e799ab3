"""Pages of the audit log by actor, path or time, and of refusals by code, that don't read all there is."""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_STATEMENTS = (
    "CREATE INDEX actions_of_actor ON auth.admin_actions (actor, id)",
    "CREATE INDEX actions_at_path ON auth.admin_actions (path text_pattern_ops, id)",
    "CREATE INDEX actions_by_time ON auth.admin_actions (at_us)",
    "CREATE INDEX refusals_of_code ON auth.refusals (code, minute)",
)


def upgrade() -> None:
    """Makes the indexes."""
    for statement in _STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """Never: what is wrong is put right by the next one."""
    raise NotImplementedError("migrations only go forward")
