"""What a job that succeeded used, as its provider said: shown to its customer where models are sold by tokens."""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Jobs that ended before have none."""
    op.execute(
        "ALTER TABLE tasks.tasks"
        " ADD COLUMN text_tokens bigint NOT NULL DEFAULT 0,"
        " ADD COLUMN image_tokens bigint NOT NULL DEFAULT 0,"
        " ADD COLUMN output_tokens bigint NOT NULL DEFAULT 0"
    )


def downgrade() -> None:
    """Never: what is wrong is put right by the next one."""
    raise NotImplementedError("migrations only go forward")
