"""Addresses of checkouts, one row per kind. No row means that there is no address yet."""

from alembic import op

revision = "checkout_0005"
down_revision = "checkout_0004"
branch_labels = None
depends_on = None

# A column is named as the key it holds when that key's value is a string. Everything else is in
# `legacy`: other keys, other types, explicit nulls; or the whole address, where it is no object.
CHECKOUT_ADDRESSES = """
CREATE TABLE checkout_addresses (
    checkout_id uuid NOT NULL REFERENCES checkouts (id) ON DELETE CASCADE,
    kind        varchar(10) NOT NULL CHECK (kind IN ('shipping', 'billing')),
    name        text,
    line1       text,
    line2       text,
    city        text,
    state       text,
    postal_code text,
    country     text,
    phone       text,
    legacy      jsonb,
    PRIMARY KEY (checkout_id, kind),
    CONSTRAINT checkout_addresses_said_once CHECK (
        legacy IS NULL
        OR jsonb_typeof(legacy) = 'object'
            AND legacy <> '{}'
            AND jsonb_typeof(legacy -> 'name') IS DISTINCT FROM 'string'
            AND jsonb_typeof(legacy -> 'line1') IS DISTINCT FROM 'string'
            AND jsonb_typeof(legacy -> 'line2') IS DISTINCT FROM 'string'
            AND jsonb_typeof(legacy -> 'city') IS DISTINCT FROM 'string'
            AND jsonb_typeof(legacy -> 'state') IS DISTINCT FROM 'string'
            AND jsonb_typeof(legacy -> 'postal_code') IS DISTINCT FROM 'string'
            AND jsonb_typeof(legacy -> 'country') IS DISTINCT FROM 'string'
            AND jsonb_typeof(legacy -> 'phone') IS DISTINCT FROM 'string'
        OR jsonb_typeof(legacy) <> 'object'
            AND num_nonnulls(name, line1, line2, city, state, postal_code, country, phone) = 0)
);
CREATE TRIGGER forget_overwritten_legacy
    BEFORE UPDATE OF name, line1, line2, city, state, postal_code, country, phone
    ON checkout_addresses FOR EACH ROW EXECUTE FUNCTION forget_overwritten_legacy();
"""


def upgrade() -> None:
    op.execute(CHECKOUT_ADDRESSES)


def downgrade() -> None:
    op.execute("DROP TABLE checkout_addresses")
