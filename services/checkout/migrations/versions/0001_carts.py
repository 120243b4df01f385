"""Carts: the new home of cart_sessions."""

from alembic import op

revision = "checkout_0001"
down_revision = None
branch_labels = None
depends_on = None

# `legacy_customer_id` is the customer id as the old side wrote it, where a uuid cannot give it
# back: in upper case, or no uuid at all. The check keeps both columns of one mind.
# `customer_key` is the id every query should look a customer up by.
CARTS = """
CREATE TABLE carts (
    id                 uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    session_id         varchar(255) NOT NULL UNIQUE,
    customer_id        uuid,
    legacy_customer_id varchar(36),
    customer_key       text GENERATED ALWAYS AS
        (lower(coalesce(legacy_customer_id::text, customer_id::text) COLLATE "C")) STORED,
    guest_token        varchar(255),
    status             varchar(20) NOT NULL DEFAULT 'active',
    currency           varchar(3) NOT NULL DEFAULT 'USD',
    expires_at         timestamptz,
    metadata           jsonb DEFAULT '{}',
    version            integer NOT NULL DEFAULT 1,
    created_at         timestamptz NOT NULL DEFAULT now(),
    updated_at         timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT carts_customer_once CHECK (
        legacy_customer_id IS NULL
        OR CASE
            WHEN legacy_customer_id ~ '^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$'
            THEN legacy_customer_id ~ '[A-F]'
                AND customer_id IS NOT NULL
                AND customer_id::text = lower(legacy_customer_id COLLATE "C")
            ELSE customer_id IS NULL
        END)
);
CREATE INDEX carts_customer_idx ON carts (customer_key);
CREATE INDEX carts_guest_idx ON carts (guest_token);
CREATE INDEX carts_status_idx ON carts (status, expires_at);
"""


def upgrade() -> None:
    op.execute(CARTS)


def downgrade() -> None:
    op.execute("DROP TABLE carts")
