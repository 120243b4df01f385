"""Consumed events: each is handled once."""

from alembic import op

revision = "checkout_0006"
down_revision = "checkout_0005"
branch_labels = None
depends_on = None

EVENT_IDEMPOTENCY = """
CREATE TABLE event_idempotency (
    event_id    varchar(255) PRIMARY KEY,
    event_type  varchar(100) NOT NULL,
    result      jsonb,
    consumed_at timestamptz NOT NULL DEFAULT now()
);
"""


def upgrade() -> None:
    op.execute(EVENT_IDEMPOTENCY)


def downgrade() -> None:
    op.execute("DROP TABLE event_idempotency")
