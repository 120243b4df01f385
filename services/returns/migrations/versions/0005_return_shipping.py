"""How a return travels: label and tracking were columns, the carrier was `metadata.carrier`."""

from alembic import op

revision = "return_0005"
down_revision = "return_0004"
branch_labels = None
depends_on = None

RETURN_SHIPPING = """
CREATE TABLE return_shipping (
    return_id       uuid PRIMARY KEY REFERENCES return_requests (id) ON DELETE CASCADE,
    label_url       text,
    tracking_number varchar(100),
    carrier         text,
    CONSTRAINT return_shipping_says_something
        CHECK (num_nonnulls(label_url, tracking_number, carrier) > 0)
);
CREATE TRIGGER return_rows_win AFTER INSERT OR UPDATE ON return_shipping
    FOR EACH ROW WHEN (NEW.carrier IS NOT NULL) EXECUTE FUNCTION return_rows_win('carrier');
"""


def upgrade() -> None:
    op.execute(RETURN_SHIPPING)


def downgrade() -> None:
    op.execute("DROP TABLE return_shipping")
