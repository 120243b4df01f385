"""The refund of a return: the old object `metadata.refund`."""

from alembic import op

revision = "return_0004"
down_revision = "return_0003"
branch_labels = None
depends_on = None

# A column is named as the key of the old object it holds; `refund_id` is the payment service's.
# `legacy` as in the history.
RETURN_REFUNDS = """
CREATE TABLE return_refunds (
    return_id    uuid PRIMARY KEY REFERENCES return_requests (id) ON DELETE CASCADE,
    payment_id   text,
    method       text,
    amount       numeric(14,2),
    currency     text,
    status       text,
    refund_id    text,
    processed_at timestamptz,
    legacy       jsonb CHECK (jsonb_typeof(legacy) = 'object' AND legacy <> '{}')
);
CREATE TRIGGER return_rows_win AFTER INSERT ON return_refunds
    FOR EACH ROW EXECUTE FUNCTION return_rows_win('refund');
"""

# A service that changes a column says nothing of `legacy`: what `legacy` knew of it is void.
FORGET_LEGACY = """
CREATE FUNCTION forget_overwritten_legacy() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.legacy IS NOT NULL AND NEW.legacy = OLD.legacy THEN
        NEW.legacy := nullif(NEW.legacy - ARRAY(
            SELECT after.key
              FROM jsonb_each(to_jsonb(NEW)) after
              JOIN jsonb_each(to_jsonb(OLD)) before ON before.key = after.key
             WHERE before.value IS DISTINCT FROM after.value), '{}'::jsonb);
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER forget_overwritten_legacy
    BEFORE UPDATE OF payment_id, method, amount, currency, status, refund_id, processed_at
    ON return_refunds FOR EACH ROW EXECUTE FUNCTION forget_overwritten_legacy();
"""


def upgrade() -> None:
    op.execute(RETURN_REFUNDS)
    op.execute(FORGET_LEGACY)


def downgrade() -> None:
    op.execute("DROP TABLE return_refunds")
    op.execute("DROP FUNCTION forget_overwritten_legacy()")
