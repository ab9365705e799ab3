"""Keys remember the key they were made with: those stay within their plan, operators' keys needn't."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the column; null, as for all keys so far, is an operator."""
    op.execute("ALTER TABLE auth.api_keys ADD COLUMN made_by uuid")


def downgrade() -> None:
    """Never: what is wrong is put right by the next one."""
    raise NotImplementedError("migrations only go forward")
