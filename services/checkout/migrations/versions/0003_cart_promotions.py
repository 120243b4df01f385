"""Promotions of carts: the old list `metadata.promotions`, one row per entry, duplicates too.

The old side can hold only a list without gaps, and no list beside another value under the same
key. The triggers keep the new side to what the old side can hold, so that every state of it can
be carried back. They change nothing in rows that came from the old side.
"""

from alembic import op

revision = "checkout_0003"
down_revision = "checkout_0002"
branch_labels = None
depends_on = None

# In the list, an amount is a number with two places. `legacy` holds what the columns cannot give
# back: unknown keys, values of another type or scale, explicit nulls; or the whole entry, where it
# is no object.
CART_PROMOTIONS = """
CREATE TABLE cart_promotions (
    cart_id         uuid NOT NULL REFERENCES carts (id) ON DELETE CASCADE,
    position        integer NOT NULL CHECK (position > 0),
    code            text,
    type            text,
    discount_amount numeric(14,2),
    legacy          jsonb,
    PRIMARY KEY (cart_id, position)
);
"""

# A service that changes a column says nothing of `legacy`: what `legacy` knew of it is void.
FORGET_LEGACY = """
CREATE FUNCTION forget_overwritten_legacy() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.legacy IS NOT NULL AND NEW.legacy = OLD.legacy THEN
        IF jsonb_typeof(NEW.legacy) = 'object' THEN
            NEW.legacy := nullif(NEW.legacy - ARRAY(
                SELECT after.key
                  FROM jsonb_each(to_jsonb(NEW)) after
                  JOIN jsonb_each(to_jsonb(OLD)) before ON before.key = after.key
                 WHERE before.value IS DISTINCT FROM after.value), '{}'::jsonb);
        ELSIF NEW IS DISTINCT FROM OLD THEN
            NEW.legacy := NULL;
        END IF;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER forget_overwritten_legacy BEFORE UPDATE OF code, type, discount_amount
    ON cart_promotions FOR EACH ROW EXECUTE FUNCTION forget_overwritten_legacy();
"""

# A cart with a row has no other value under the key `promotions`, such as null or [].
LIST_WINS = """
CREATE FUNCTION cart_promotions_list_wins() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE carts
       SET metadata = CASE WHEN jsonb_typeof(metadata) = 'object'
                           THEN metadata - 'promotions' ELSE '{}'::jsonb END
     WHERE id = NEW.cart_id
       AND (jsonb_typeof(metadata) IS DISTINCT FROM 'object' OR metadata ? 'promotions');
    RETURN NULL;
END $$;
CREATE TRIGGER cart_promotions_list_wins AFTER INSERT
    ON cart_promotions FOR EACH ROW EXECUTE FUNCTION cart_promotions_list_wins();
"""

# Row by row from the front, because the primary key is checked with each row.
CLOSE_GAPS = """
CREATE FUNCTION cart_promotions_close_gaps() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    kept record;
BEGIN
    FOR kept IN
        SELECT p.cart_id, p.position, p.place
          FROM (SELECT cart_id, position,
                       row_number() OVER (PARTITION BY cart_id ORDER BY position) AS place
                  FROM cart_promotions
                 WHERE cart_id IN (SELECT cart_id FROM gone)) p
         WHERE p.position <> p.place
         ORDER BY p.cart_id, p.position
    LOOP
        UPDATE cart_promotions SET position = kept.place
         WHERE cart_id = kept.cart_id AND position = kept.position;
    END LOOP;
    RETURN NULL;
END $$;
CREATE TRIGGER cart_promotions_close_gaps AFTER DELETE
    ON cart_promotions REFERENCING OLD TABLE AS gone
    FOR EACH STATEMENT EXECUTE FUNCTION cart_promotions_close_gaps();
"""


def upgrade() -> None:
    for statements in (CART_PROMOTIONS, FORGET_LEGACY, LIST_WINS, CLOSE_GAPS):
        op.execute(statements)


def downgrade() -> None:
    op.execute("DROP TABLE cart_promotions")
    op.execute(
        "DROP FUNCTION forget_overwritten_legacy(), cart_promotions_list_wins(),"
        " cart_promotions_close_gaps()"
    )
