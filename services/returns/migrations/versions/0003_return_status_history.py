"""The history of a return: the old list `metadata.status_history`, one row per entry.

Rows are only ever added, at the next position. The old side can hold no list beside another
value under the same key; the trigger keeps the new side to that, so that every state of it can be
carried back. It changes nothing in rows that came from the old side.
"""

from alembic import op

revision = "return_0003"
down_revision = "return_0002"
branch_labels = None
depends_on = None

# An old entry is {status, at, by, note}. `legacy` holds what the columns cannot give back: unknown
# keys, values of another type, other spellings of a time; or the whole entry, where it is no
# object.
RETURN_STATUS_HISTORY = """
CREATE TABLE return_status_history (
    return_id  uuid NOT NULL REFERENCES return_requests (id) ON DELETE CASCADE,
    position   integer NOT NULL CHECK (position > 0),
    status     text,
    changed_at timestamptz,
    changed_by text,
    note       text,
    legacy     jsonb,
    PRIMARY KEY (return_id, position)
);
"""

# Shared by the tables that are split from `metadata`; the argument is the key they replace.
ROWS_WIN = """
CREATE FUNCTION return_rows_win() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE return_requests
       SET metadata = CASE WHEN jsonb_typeof(metadata) = 'object'
                           THEN metadata - TG_ARGV[0] ELSE '{}'::jsonb END
     WHERE id = NEW.return_id
       AND (jsonb_typeof(metadata) IS DISTINCT FROM 'object' OR metadata ? TG_ARGV[0]);
    RETURN NULL;
END $$;
CREATE TRIGGER return_rows_win AFTER INSERT ON return_status_history
    FOR EACH ROW EXECUTE FUNCTION return_rows_win('status_history');
"""


def upgrade() -> None:
    op.execute(RETURN_STATUS_HISTORY)
    op.execute(ROWS_WIN)


def downgrade() -> None:
    op.execute("DROP TABLE return_status_history")
    op.execute("DROP FUNCTION return_rows_win()")
