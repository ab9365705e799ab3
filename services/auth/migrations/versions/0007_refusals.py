"""How often requests were refused, by key, code and minute, as each edge says of itself."""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Makes the table. `minute` is minutes since the epoch; `key_id` is empty where no key was known."""
    op.execute(
        """
        CREATE TABLE auth.refusals (
            minute bigint NOT NULL CHECK (minute >= 0),
            key_id text NOT NULL CHECK (length(key_id) <= 36),
            code text NOT NULL CHECK (length(code) BETWEEN 1 AND 100),
            spender uuid NOT NULL,
            count bigint NOT NULL CHECK (count > 0),
            PRIMARY KEY (minute, key_id, code, spender)
        )
        """
    )
    op.execute("CREATE INDEX refusals_of_key ON auth.refusals (key_id, minute)")


def downgrade() -> None:
    """Never: what is wrong is put right by the next one."""
    raise NotImplementedError("migrations only go forward")
