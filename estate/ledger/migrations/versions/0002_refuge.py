"""Changed keys of a stream whose target is away."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

SCHEMA = "splitctl"


def upgrade() -> None:
    """What the ledger holds of a stream, and its keys: one row each, however often it changed."""
    op.create_table(
        "refuge",
        sa.Column("stream", sa.Text, primary_key=True),
        sa.Column("system_id", sa.Text, nullable=False),
        sa.Column("timeline", sa.Integer, nullable=False),
        # Positions as numbers, not as pg_lsn: SQLAlchemy has no type for that.
        sa.Column("from_lsn", sa.BigInteger, nullable=False),
        sa.Column("to_lsn", sa.BigInteger, nullable=False),
        sa.Column(
            "began_at",
            sa.DateTime(timezone=True),
            nullable=False,
            server_default=sa.text("clock_timestamp()"),
        ),
        sa.CheckConstraint("from_lsn <= to_lsn", name="refuge_forward"),
        schema=SCHEMA,
    )
    op.create_table(
        "refuge_key",
        sa.Column("stream", sa.Text, primary_key=True),
        sa.Column("mapping", sa.Text, primary_key=True),
        sa.Column("key", JSONB, primary_key=True),
        sa.Column("asked", sa.Boolean, nullable=False),
        schema=SCHEMA,
    )


def downgrade() -> None:
    """Drop them."""
    for table in ("refuge_key", "refuge"):
        op.drop_table(table, schema=SCHEMA)
