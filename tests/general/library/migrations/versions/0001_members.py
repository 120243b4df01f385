"""Members of the lending service."""

from alembic import op

revision = "m1"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE members (
            member_id    integer PRIMARY KEY,
            full_name    text NOT NULL,
            email        varchar(120),
            preferences  jsonb NOT NULL,
            member_since date NOT NULL DEFAULT '2020-02-29'
        )
        """
    )


def downgrade() -> None:
    op.execute("DROP TABLE members")
