"""Where each kept key was told of last."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

SCHEMA = "splitctl"


def upgrade() -> None:
    """So that keys which the target had before are told from those that it misses."""
    op.add_column("refuge_key", sa.Column("told_at", sa.BigInteger), schema=SCHEMA)


def downgrade() -> None:
    """Drop it."""
    op.drop_column("refuge_key", "told_at", schema=SCHEMA)
