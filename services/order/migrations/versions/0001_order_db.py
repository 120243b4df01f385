"""The monolith's schema as it stands before the split."""

from alembic import op

revision = "order_0001"
down_revision = None
branch_labels = None
depends_on = None

ORDERS = """
CREATE TABLE orders (
    id               uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    order_number     varchar(50) NOT NULL UNIQUE,
    customer_id      uuid,
    status           varchar(20) NOT NULL DEFAULT 'pending',
    currency         varchar(3) NOT NULL DEFAULT 'USD',
    subtotal         numeric(10,2) NOT NULL DEFAULT 0,
    tax_amount       numeric(10,2) NOT NULL DEFAULT 0,
    shipping_amount  numeric(10,2) NOT NULL DEFAULT 0,
    discount_amount  numeric(10,2) NOT NULL DEFAULT 0,
    total_amount     numeric(10,2) NOT NULL DEFAULT 0,
    payment_id       varchar(100),
    payment_method   varchar(50),
    payment_status   varchar(20),
    shipping_address jsonb,
    billing_address  jsonb,
    notes            text,
    metadata         jsonb,
    created_at       timestamptz NOT NULL DEFAULT now(),
    updated_at       timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX orders_customer_idx ON orders (customer_id, created_at);
-- One checkout makes one order, however often it is confirmed and on whichever side.
CREATE UNIQUE INDEX orders_checkout_key ON orders ((metadata ->> 'checkout_id'));

CREATE TABLE order_items (
    id              bigserial PRIMARY KEY,
    order_id        uuid NOT NULL REFERENCES orders (id) ON DELETE CASCADE,
    product_id      uuid,
    product_sku     varchar(100) NOT NULL,
    product_name    varchar(255),
    quantity        integer NOT NULL,
    unit_price      numeric(10,2) NOT NULL,
    total_price     numeric(10,2) NOT NULL,
    discount_amount numeric(10,2) NOT NULL DEFAULT 0,
    tax_amount      numeric(10,2) NOT NULL DEFAULT 0,
    warehouse_id    varchar(50),
    reservation_id  varchar(100),
    metadata        jsonb
);
CREATE INDEX order_items_order_idx ON order_items (order_id);
"""

CARTS = """
CREATE TABLE cart_sessions (
    id          uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    session_id  varchar(255) NOT NULL UNIQUE,
    customer_id varchar(36),
    guest_token varchar(255),
    status      varchar(20) NOT NULL DEFAULT 'active',
    currency    varchar(3) NOT NULL DEFAULT 'USD',
    expires_at  timestamptz,
    metadata    jsonb,
    version     integer NOT NULL DEFAULT 1,
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX cart_sessions_customer_idx ON cart_sessions (lower(customer_id));
CREATE INDEX cart_sessions_guest_idx ON cart_sessions (guest_token);
CREATE INDEX cart_sessions_status_idx ON cart_sessions (status, expires_at);

CREATE TABLE cart_items (
    id              bigserial PRIMARY KEY,
    cart_session_id uuid NOT NULL REFERENCES cart_sessions (id) ON DELETE CASCADE,
    product_id      uuid,
    product_sku     varchar(100) NOT NULL,
    quantity        integer NOT NULL,
    unit_price      numeric(10,2) NOT NULL,
    total_price     numeric(10,2) NOT NULL,
    warehouse_id    varchar(50),
    reservation_id  varchar(100),
    added_at        timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX cart_items_cart_idx ON cart_items (cart_session_id);

-- No foreign key on cart_id: a checkout outlives its cart.
CREATE TABLE checkout_sessions (
    id                   uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    session_token        varchar(255) NOT NULL UNIQUE,
    customer_id          varchar(36),
    cart_id              uuid,
    status               varchar(20) NOT NULL DEFAULT 'started',
    shipping_address     jsonb,
    billing_address      jsonb,
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
    metadata             jsonb,
    created_at           timestamptz NOT NULL DEFAULT now(),
    updated_at           timestamptz NOT NULL DEFAULT now(),
    expires_at           timestamptz,
    completed_at         timestamptz
);
CREATE INDEX checkout_sessions_customer_idx ON checkout_sessions (lower(customer_id));
CREATE INDEX checkout_sessions_cart_idx ON checkout_sessions (cart_id);
CREATE INDEX checkout_sessions_status_idx ON checkout_sessions (status, updated_at);
"""

RETURNS = """
CREATE TABLE return_requests (
    id                        uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    return_number             varchar(50) NOT NULL UNIQUE,
    order_id                  uuid NOT NULL,
    customer_id               varchar(36),
    status                    varchar(20) NOT NULL DEFAULT 'requested',
    return_type               varchar(20) NOT NULL DEFAULT 'refund',
    reason                    varchar(255),
    description               text,
    approved_by               varchar(100),
    approved_at               timestamptz,
    processed_by              varchar(100),
    processed_at              timestamptz,
    total_refund_amount       numeric(10,2),
    refund_shipping           numeric(10,2),
    refund_tax                numeric(10,2),
    return_shipping_label_url text,
    return_tracking_number    varchar(100),
    metadata                  jsonb,
    created_at                timestamptz NOT NULL DEFAULT now(),
    updated_at                timestamptz NOT NULL DEFAULT now(),
    expires_at                timestamptz,
    completed_at              timestamptz
);
CREATE INDEX return_requests_order_idx ON return_requests (order_id);
CREATE INDEX return_requests_customer_idx ON return_requests (lower(customer_id));
CREATE INDEX return_requests_status_idx ON return_requests (status, updated_at);

CREATE TABLE return_items (
    id                 bigserial PRIMARY KEY,
    return_request_id  uuid NOT NULL REFERENCES return_requests (id) ON DELETE CASCADE,
    order_item_id      bigint,
    product_id         uuid,
    product_sku        varchar(100) NOT NULL,
    product_name       varchar(255),
    quantity_returned  integer NOT NULL,
    quantity_received  integer NOT NULL DEFAULT 0,
    return_reason      varchar(255),
    condition_received varchar(50),
    unit_price         numeric(10,2) NOT NULL,
    refund_amount      numeric(10,2),
    restocked          boolean NOT NULL DEFAULT false,
    restocked_at       timestamptz,
    warehouse_id       varchar(50),
    metadata           jsonb
);
CREATE INDEX return_items_return_idx ON return_items (return_request_id);
"""

# CloudEvents, written in the transaction they tell of. Each side has its own; none is carried.
OUTBOX = """
CREATE TABLE outbox (
    id           bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    event_id     uuid NOT NULL UNIQUE DEFAULT gen_random_uuid(),
    event_type   varchar(100) NOT NULL,
    subject      varchar(255) NOT NULL,
    route        text,
    payload      jsonb NOT NULL DEFAULT '{}',
    created_at   timestamptz NOT NULL DEFAULT now(),
    published_at timestamptz,
    attempts     integer NOT NULL DEFAULT 0,
    last_error   text
);
CREATE INDEX outbox_unpublished_idx ON outbox (id) WHERE published_at IS NULL;
"""


def upgrade() -> None:
    for statements in (ORDERS, CARTS, RETURNS, OUTBOX):
        op.execute(statements)


def downgrade() -> None:
    op.execute(
        "DROP TABLE outbox, return_items, return_requests, checkout_sessions,"
        " cart_items, cart_sessions, order_items, orders"
    )
