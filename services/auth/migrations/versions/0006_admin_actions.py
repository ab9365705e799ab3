"""What operators did: when it began, and how it ended. Two tables, since neither is ever changed."""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_ROLE = "tollbridge_auth"

_STATEMENTS = (
    """
    CREATE TABLE auth.admin_actions (
        id uuid PRIMARY KEY,
        at_us bigint NOT NULL,
        actor text NOT NULL CHECK (length(actor) BETWEEN 1 AND 100),
        address text NOT NULL CHECK (length(address) <= 100),
        method text NOT NULL CHECK (length(method) BETWEEN 1 AND 20),
        path text NOT NULL CHECK (length(path) BETWEEN 1 AND 500),
        parameters text NOT NULL CHECK (length(parameters) <= 8000)
    )
    """,
    """
    CREATE TABLE auth.admin_outcomes (
        action_id uuid PRIMARY KEY REFERENCES auth.admin_actions,
        at_us bigint NOT NULL,
        status integer NOT NULL CHECK (status BETWEEN 0 AND 999),
        code text NOT NULL CHECK (length(code) <= 100)
    )
    """,
    """
    CREATE FUNCTION auth.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION 'auth.% is append-only', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
    END $$
    """,
    """
    CREATE TRIGGER actions_are_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON auth.admin_actions
        FOR EACH STATEMENT EXECUTE FUNCTION auth.refuse_change()
    """,
    """
    CREATE TRIGGER outcomes_are_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON auth.admin_outcomes
        FOR EACH STATEMENT EXECUTE FUNCTION auth.refuse_change()
    """,
    # The triggers hold for everybody; the service's role may not even try, and owns nothing that it could change.
    f"REVOKE ALL ON auth.admin_actions, auth.admin_outcomes FROM {_ROLE}",
    f"GRANT SELECT, INSERT ON auth.admin_actions, auth.admin_outcomes TO {_ROLE}",
)


def upgrade() -> None:
    """Makes the tables and closes them."""
    for statement in _STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """Never: what is wrong is put right by the next one."""
    raise NotImplementedError("migrations only go forward")
