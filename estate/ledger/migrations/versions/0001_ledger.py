"""The ledger's first tables."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

SCHEMA = "splitctl"
NOW = sa.text("clock_timestamp()")
EMPTY = sa.text("'{}'::jsonb")


def moment(name: str, *, nullable: bool = False, default: sa.TextClause | None = None) -> sa.Column:
    """A point in time."""
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable, server_default=default)


def text(name: str, *, nullable: bool = False) -> sa.Column:
    """A text."""
    return sa.Column(name, sa.Text, nullable=nullable)


def serial() -> sa.Column:
    """A primary key that the database numbers."""
    return sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True)


def upgrade() -> None:
    """Create them."""
    op.create_table(
        "rollout",
        sa.Column("domain", sa.Text, primary_key=True),
        text("stage"),
        sa.Column("percentage", sa.Integer, nullable=False),
        sa.Column("phase", sa.Integer, nullable=False),
        moment("phase_started_at", nullable=True),
        moment("moved_at", nullable=True),
        sa.Column("soak_evidence_s", sa.Float(53), nullable=False),
        sa.Column("soak_required_s", sa.Float(53)),
        moment("counted_at", nullable=True),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("evidence", JSONB, nullable=False, server_default=EMPTY),
        moment("updated_at", default=NOW),
        sa.CheckConstraint(
            "stage IN ('off', 'dual-write', 'shadow', 'live', 'rampdown', 'complete')",
            name="rollout_stage",
        ),
        sa.CheckConstraint("percentage BETWEEN 0 AND 100", name="rollout_percentage"),
        schema=SCHEMA,
    )
    op.create_table(
        "act",
        serial(),
        moment("at", default=NOW),
        text("operator"),
        text("host"),
        text("command"),
        text("domain", nullable=True),
        text("kind"),
        sa.Column("intent", JSONB, nullable=False),
        sa.Column("outcome", JSONB),
        moment("finished_at", nullable=True),
        text("state"),
        sa.Column("journal_id", sa.Text, unique=True),
        sa.CheckConstraint("state IN ('intended', 'done', 'abandoned')", name="act_state"),
        schema=SCHEMA,
    )
    op.create_index(
        "act_unfinished", "act", ["domain"], schema=SCHEMA, postgresql_where="state = 'intended'"
    )
    op.create_table(
        "sample",
        serial(),
        moment("at", default=NOW),
        text("domain"),
        text("source"),
        sa.Column("data", JSONB, nullable=False),
        schema=SCHEMA,
    )
    op.create_index("sample_domain_at", "sample", ["domain", "at"], schema=SCHEMA)
    op.create_table(
        "verdict",
        serial(),
        moment("at", default=NOW),
        moment("started_at", default=NOW),
        text("domain"),
        text("kind"),
        text("name"),
        text("verdict"),
        sa.Column("data", JSONB, nullable=False),
        schema=SCHEMA,
    )
    op.create_index("verdict_latest", "verdict", ["domain", "name", "id"], schema=SCHEMA)
    op.create_table(
        "operator_lock",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        text("operator"),
        text("host"),
        text("command"),
        moment("since", default=NOW),
        sa.CheckConstraint("id = 1", name="operator_lock_one"),
        schema=SCHEMA,
    )


def downgrade() -> None:
    """Drop them."""
    for table in ("operator_lock", "verdict", "sample", "act", "rollout"):
        op.drop_table(table, schema=SCHEMA)
