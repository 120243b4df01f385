"""Checkouts: the new home of checkout_sessions, without its addresses."""

from alembic import op

revision = "checkout_0004"
down_revision = "checkout_0003"
branch_labels = None
depends_on = None

# Customer columns as in `carts`. No foreign key on cart_id: a checkout outlives its cart.
CHECKOUTS = """
CREATE TABLE checkouts (
    id                   uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    session_token        varchar(255) NOT NULL UNIQUE,
    customer_id          uuid,
    legacy_customer_id   varchar(36),
    customer_key         text GENERATED ALWAYS AS
        (lower(coalesce(legacy_customer_id::text, customer_id::text) COLLATE "C")) STORED,
    cart_id              uuid,
    status               varchar(20) NOT NULL DEFAULT 'started',
    payment_method_id    varchar(100),
    payment_method_type  varchar(50),
    shipping_method_id   varchar(100),
    shipping_method_name varchar(255),
    shipping_cost        numeric(10,2),
    subtotal             numeric(10,2) NOT NULL DEFAULT 0,
    tax_amount           numeric(10,2) NOT NULL DEFAULT 0,
    shipping_amount      numeric(10,2) NOT NULL DEFAULT 0,
    discount_amount      numeric(10,2) NOT NULL DEFAULT 0,
    total_amount         numeric(10,2) NOT NULL DEFAULT 0,
    metadata             jsonb DEFAULT '{}',
    created_at           timestamptz NOT NULL DEFAULT now(),
    updated_at           timestamptz NOT NULL DEFAULT now(),
    expires_at           timestamptz,
    completed_at         timestamptz,
    CONSTRAINT checkouts_customer_once CHECK (
        legacy_customer_id IS NULL
        OR CASE
            WHEN legacy_customer_id ~ '^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$'
            THEN legacy_customer_id ~ '[A-F]'
                AND customer_id IS NOT NULL
                AND customer_id::text = lower(legacy_customer_id COLLATE "C")
            ELSE customer_id IS NULL
        END)
);
CREATE INDEX checkouts_customer_idx ON checkouts (customer_key);
CREATE INDEX checkouts_cart_idx ON checkouts (cart_id);
CREATE INDEX checkouts_status_idx ON checkouts (status, updated_at);
"""


def upgrade() -> None:
    op.execute(CHECKOUTS)


def downgrade() -> None:
    op.execute("DROP TABLE checkouts")
