-- The data of an old order service after years of life, made by arithmetic: the same seed gives
-- the same rows. Words between at-signs are whole numbers, put in before running.
-- Each `draw` is an even number from 0 up to 1 that depends on the seed, a word and a row's number.

CREATE FUNCTION pg_temp.draw(word text, n bigint) RETURNS double precision
LANGUAGE sql IMMUTABLE AS $f$
    SELECT (hashint8extended(n, hashtextextended(word, @seed@)) & 4294967295) / 4294967296.0::float8
$f$;

CREATE FUNCTION pg_temp.name_of(word text, n bigint) RETURNS uuid LANGUAGE sql IMMUTABLE AS $f$
    SELECT md5(word || ':' || n || ':' || @seed@)::uuid
$f$;

CREATE FUNCTION pg_temp.pick(choices text[], share double precision) RETURNS text
LANGUAGE sql IMMUTABLE AS $f$
    SELECT choices[1 + floor(share * array_length(choices, 1))::int]
$f$;

-- How a customer's id was written down: mostly as a uuid, at times in upper case, at times not a
-- uuid at all, because somebody once let guests through without an account.
CREATE FUNCTION pg_temp.customer(n bigint, in_row bigint) RETURNS text
LANGUAGE sql IMMUTABLE AS $f$
    SELECT CASE
        WHEN pg_temp.draw('no-uuid', n) < 0.01 THEN 'guest-' || n
        WHEN pg_temp.draw('upper', in_row) < 0.06 THEN upper(pg_temp.name_of('customer', n)::text)
        ELSE pg_temp.name_of('customer', n)::text
    END
$f$;

CREATE FUNCTION pg_temp.address(n bigint, kind text) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $f$
    SELECT jsonb_build_object(
        'name', pg_temp.pick('{Ada Berg,Cem Demir,Eve Fox,Zoë Müller,李雷}', pg_temp.draw(kind, n)),
        'line1', pg_temp.pick('{Main St,Hauptstraße,Rue Neuve}', pg_temp.draw(kind || 's', n))
            || ' ' || (1 + n % 240),
        'city', pg_temp.pick('{Bern,Köln,Oslo,Porto}', pg_temp.draw(kind || 'c', n)),
        'postal_code', lpad((n * 37 % 99999)::text, 5, '0'),
        'country', pg_temp.pick('{CH,DE,NO,PT}', pg_temp.draw(kind || 'c', n)))
        -- Keys that some client once sent and that nobody knows any more.
        || CASE WHEN pg_temp.draw(kind || 'x', n) < 0.08 THEN jsonb_build_object(
            'doorbell', 'ring ' || n % 9, 'geo', jsonb_build_array(n % 90, n % 180),
            'legacy', jsonb_build_object('validated', n % 2 = 0, 'score', null)) ELSE '{}' END
$f$;

-- Carts. One in four is a guest's. Few of the active ones have been left alone for long: those the
-- clean-up job works through during the run.
INSERT INTO cart_sessions (id, session_id, customer_id, guest_token, status, currency, expires_at,
                           metadata, version, created_at, updated_at)
SELECT pg_temp.name_of('cart', n),
    'sess-' || replace(pg_temp.name_of('session', n)::text, '-', ''),
    CASE WHEN guest >= 0.25 OR guest < 0.01 THEN pg_temp.customer(who, n) END,
    CASE WHEN guest < 0.25 THEN 'tok-' || left(md5('token' || n || '@seed@'), 20) END,
    status, 'USD',
    CASE WHEN status = 'active' AND NOT stale THEN now() + interval '7 days'
         ELSE touched + interval '7 days' END,
    CASE WHEN extra < 0.30 THEN jsonb_build_object('promotions', promotions)
         WHEN extra < 0.34 THEN jsonb_build_object('promotions', promotions, 'utm',
             jsonb_build_object('source', 'mail', 'tags', jsonb_build_array(n % 7, 'x')),
             'note', 'leave at the "door"', 'score', (n % 1000) / 7.0)
         WHEN extra < 0.40 THEN jsonb_build_object('ab_test', 'blue-' || n % 3, 'promotions', '[]')
         WHEN extra < 0.45 THEN NULL ELSE '{}' END,
    1 + (n % 9)::int,
    touched - interval '2 hours', touched
FROM (
    SELECT n, guest, extra, status, who, stale, promotions,
        CASE WHEN status = 'active' AND NOT stale
             THEN now() - pg_temp.draw('fresh', n) * interval '10 minutes'
             ELSE now() - interval '2 hours' - pg_temp.draw('touched', n) * interval '60 days'
        END AS touched
    FROM (
        SELECT n, pg_temp.draw('guest', n) AS guest, pg_temp.draw('extra', n) AS extra,
            1 + floor(pg_temp.draw('who', n) * @carts@ * 0.7)::bigint AS who,
            pg_temp.draw('stale', n) < 0.08 AS stale,
            CASE WHEN n % 20 < 9 THEN 'active' WHEN n % 20 < 10 THEN 'checkout'
                 WHEN n % 20 < 16 THEN 'completed' WHEN n % 20 < 19 THEN 'abandoned'
                 ELSE 'expired' END AS status,
            -- Now and then the same promotion stands there twice.
            jsonb_build_array(jsonb_build_object('code', 'SAVE10', 'type', 'percentage',
                                                 'discount_amount', (n % 900) / 100.0))
            || CASE WHEN pg_temp.draw('second', n) < 0.2 THEN jsonb_build_array(jsonb_build_object(
                    'code', 'WELCOME', 'type', 'fixed', 'discount_amount', 5)) ELSE '[]' END
            || CASE WHEN pg_temp.draw('twice', n) < 0.05 THEN jsonb_build_array(jsonb_build_object(
                    'code', 'SAVE10', 'type', 'percentage', 'discount_amount', (n % 900) / 100.0))
                    ELSE '[]' END AS promotions
        FROM generate_series(1, @carts@) AS n
    ) AS drawn
) AS carts
ORDER BY n;

INSERT INTO cart_items (cart_session_id, product_id, product_sku, quantity, unit_price,
                        total_price, warehouse_id, reservation_id, added_at, updated_at)
SELECT pg_temp.name_of('cart', n), g.product_id, g.sku, quantity, g.price, g.price * quantity,
    CASE WHEN reserved THEN 'WH-' || 1 + n % 3 END,
    CASE WHEN reserved THEN pg_temp.name_of('reservation', n * 10 + line)::text END,
    now() - interval '3 hours', now() - interval '2 hours'
FROM (
    SELECT n, line, (n * 31 + line * 17) % @goods@ AS good,
        1 + floor(pg_temp.draw('quantity', n * 10 + line) * 4)::int AS quantity,
        pg_temp.draw('reserved', n) < 0.02 AS reserved
    FROM generate_series(1, @carts@) AS n,
        generate_series(1, CASE WHEN n % 20 BETWEEN 9 AND 15 THEN 1 + n % 3 ELSE n % 4 END) AS line
) AS lines
JOIN pg_temp.goods AS g ON g.number = good
ORDER BY n, line;

-- Checkouts: one for each cart that got so far, and that has somebody who could pay.
CREATE TEMPORARY TABLE bought AS
SELECT n, c.id AS cart_id, c.customer_id, c.status, c.currency, c.updated_at,
    coalesce(sum(i.total_price), 0)::numeric(10, 2) AS subtotal
FROM generate_series(1, @carts@) AS n
JOIN cart_sessions AS c ON c.id = pg_temp.name_of('cart', n)
LEFT JOIN cart_items AS i ON i.cart_session_id = c.id
WHERE c.status IN ('checkout', 'completed') AND c.customer_id IS NOT NULL
GROUP BY n, c.id;
ANALYZE pg_temp.bought;

INSERT INTO checkout_sessions (id, session_token, customer_id, cart_id, status, shipping_address,
                               billing_address, payment_method_id, payment_method_type,
                               shipping_method_id, shipping_method_name, shipping_cost, subtotal,
                               tax_amount, shipping_amount, discount_amount, total_amount, metadata,
                               created_at, updated_at, expires_at, completed_at)
SELECT pg_temp.name_of('checkout', n),
    'chk-' || replace(pg_temp.name_of('token', n)::text, '-', ''), customer_id, cart_id,
    CASE WHEN paid THEN 'completed' ELSE 'started' END,
    CASE WHEN paid OR n % 2 = 0 THEN pg_temp.address(n, 'ship') END,
    CASE WHEN n % 3 = 0 THEN pg_temp.address(n, 'bill') END,
    CASE WHEN paid THEN 'card-4242' END, CASE WHEN paid THEN 'card' END,
    CASE WHEN paid THEN 'standard' END, CASE WHEN paid THEN 'Standard' END,
    CASE WHEN paid THEN 4.90 END, subtotal, round(subtotal * 0.08, 2),
    CASE WHEN paid THEN 4.90 ELSE 0 END, 0,
    subtotal + round(subtotal * 0.08, 2) + CASE WHEN paid THEN 4.90 ELSE 0 END,
    CASE WHEN paid THEN jsonb_build_object('order_id', pg_temp.name_of('order of cart', n),
                                           'order_number', 'ORD-C' || n)
         WHEN pg_temp.draw('odd', n) < 0.1
         THEN jsonb_build_object('experiment', jsonb_build_array('b', n % 5), 'gift', true)
         WHEN pg_temp.draw('odd', n) < 0.2 THEN NULL ELSE '{}' END,
    updated_at - interval '10 minutes', updated_at, updated_at + interval '1 day',
    CASE WHEN paid THEN updated_at END
FROM (SELECT *, status = 'completed' AS paid FROM pg_temp.bought) AS b
ORDER BY n;

-- Orders: of the carts above, and older ones whose carts are long gone; those may come back.
CREATE TEMPORARY TABLE ordered AS
SELECT n, pg_temp.name_of('order of cart', n) AS id, 'ORD-C' || n AS number, customer_id,
    'confirmed' AS status, subtotal, updated_at AS at,
    jsonb_build_object('checkout_id', pg_temp.name_of('checkout', n), 'cart_id', cart_id) AS metadata
FROM pg_temp.bought WHERE status = 'completed'
UNION ALL
SELECT -n, pg_temp.name_of('old order', n), 'ORD-' || n,
    pg_temp.customer(1 + floor(pg_temp.draw('buyer', n) * @carts@ * 0.7)::bigint, n), 'delivered',
    (SELECT sum(g.price * (1 + (n + line) % 3))
     FROM generate_series(1, 1 + n % 3) AS line
     JOIN pg_temp.goods AS g ON g.number = (n * 13 + line * 29) % @goods@)::numeric(10, 2),
    now() - interval '1 day' - pg_temp.draw('ordered', n) * interval '20 days', '{}'
FROM generate_series(1, @orders@) AS n;
ANALYZE pg_temp.ordered;

INSERT INTO orders (id, order_number, customer_id, status, currency, subtotal, tax_amount,
                    shipping_amount, discount_amount, total_amount, payment_id, payment_method,
                    payment_status, shipping_address, billing_address, metadata, created_at,
                    updated_at)
SELECT id, number,
    CASE WHEN customer_id NOT LIKE 'guest-%' THEN lower(customer_id)::uuid END,
    status, 'USD', subtotal, round(subtotal * 0.08, 2), 4.90, 0,
    subtotal + round(subtotal * 0.08, 2) + 4.90, 'pay-' || number, 'card', 'captured',
    pg_temp.address(n, 'ship'), pg_temp.address(n, 'ship'),
    CASE WHEN customer_id LIKE 'guest-%'
         THEN metadata || jsonb_build_object('customer_id', customer_id) ELSE metadata END,
    at, at
FROM pg_temp.ordered
ORDER BY n;

INSERT INTO order_items (order_id, product_id, product_sku, product_name, quantity, unit_price,
                         total_price, warehouse_id)
SELECT pg_temp.name_of('old order', n), g.product_id, g.sku, 'Thing ' || g.number,
    1 + (n + line) % 3, g.price, g.price * (1 + (n + line) % 3), 'WH-' || 1 + n % 3
FROM generate_series(1, @orders@) AS n
CROSS JOIN LATERAL generate_series(1, 1 + n % 3) AS line
JOIN pg_temp.goods AS g ON g.number = (n * 13 + line * 29) % @goods@
ORDER BY n, line;

INSERT INTO order_items (order_id, product_id, product_sku, product_name, quantity, unit_price,
                         total_price, warehouse_id, reservation_id)
SELECT pg_temp.name_of('order of cart', b.n), i.product_id, i.product_sku, 'Thing of ' || b.n,
    i.quantity, i.unit_price, i.total_price, i.warehouse_id, i.reservation_id
FROM pg_temp.bought AS b
JOIN cart_items AS i ON i.cart_session_id = b.cart_id
WHERE b.status = 'completed'
ORDER BY i.id;

-- Returns of the older orders, through all statuses. The history is a list in the metadata, at
-- times in spellings of long ago; few have none.
CREATE TEMPORARY TABLE returned AS
SELECT s.n, pg_temp.name_of('return', s.n) AS id, o.id AS order_id, o.number, o.customer_id,
    o.subtotal, w.way, w.way[array_length(w.way, 1)] AS status,
    now() - pg_temp.draw('asked', s.n) * interval '20 hours' - interval '1 hour' AS at,
    pg_temp.draw('odd return', s.n) AS odd
FROM generate_series(1, @returns@) AS s (n)
JOIN pg_temp.ordered AS o ON o.n = -s.n
JOIN (VALUES
    (0, '{requested}'::text[]), (1, '{requested}'), (2, '{requested,under_review}'),
    (3, '{requested,approved}'), (4, '{requested,approved,items_received}'),
    (5, '{requested,approved,items_received,completed}'),
    (6, '{requested,under_review,approved,items_received,completed}'),
    (7, '{requested,approved,items_received,completed}'), (8, '{requested,rejected}'),
    (9, '{requested,cancelled}')) AS w (digit, way) ON w.digit = s.n % 10;
ANALYZE pg_temp.returned;

INSERT INTO return_requests (id, return_number, order_id, customer_id, status, return_type, reason,
                             description, approved_by, approved_at, processed_by, processed_at,
                             total_refund_amount, refund_shipping, refund_tax,
                             return_shipping_label_url, return_tracking_number, metadata,
                             created_at, updated_at, expires_at, completed_at)
SELECT id, 'RET-' || n, order_id,
    -- The same customer, at times in another spelling than in the order.
    CASE WHEN n % 11 = 0 AND customer_id NOT LIKE 'guest-%' THEN upper(customer_id)
         ELSE customer_id END,
    status, CASE WHEN n % 7 = 0 THEN 'exchange' WHEN n % 9 = 0 THEN 'store_credit'
                 ELSE 'refund' END,
    'does not fit', CASE WHEN n % 4 = 0 THEN 'Too "small", 50% — sorry' END,
    CASE WHEN approved THEN 'desk-' || n % 5 END, CASE WHEN approved THEN at END,
    CASE WHEN status = 'completed' THEN 'desk-' || n % 7 END,
    CASE WHEN status = 'completed' THEN at END,
    CASE WHEN odd < 0.97 THEN round(subtotal * 1.08, 2) END,
    CASE WHEN odd < 0.97 THEN 0 END, CASE WHEN odd < 0.97 THEN round(subtotal * 0.08, 2) END,
    CASE WHEN approved THEN 'https://labels.example/RET-' || n || '.pdf' END,
    CASE WHEN approved THEN 'TRK' || lpad(n::text, 12, '0') END,
    CASE WHEN odd < 0.02 THEN NULL WHEN odd < 0.04 THEN '{}'
         ELSE jsonb_build_object('status_history', history) END
        || CASE WHEN status = 'completed' AND odd < 0.9 THEN jsonb_build_object('refund',
            jsonb_build_object('payment_id', 'pay-' || number, 'method', 'card',
                'amount', CASE WHEN n % 2 = 0 THEN to_jsonb(round(subtotal * 1.08, 2))
                               ELSE to_jsonb(round(subtotal * 1.08, 2)::text) END,
                'currency', 'USD', 'status', 'completed', 'refund_id', 'ref-' || n,
                'processed_at', to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'))
            || CASE WHEN n % 13 = 0 THEN '{"gateway": {"trace": [1, null]}}'::jsonb ELSE '{}' END)
            ELSE '{}' END
        || CASE WHEN n % 6 = 0 THEN jsonb_build_object('carrier', 'DHL') ELSE '{}' END
        || CASE WHEN n % 17 = 0 THEN jsonb_build_object('crm', jsonb_build_object('case', n))
                ELSE '{}' END,
    at - interval '2 hours', at, at + interval '30 days',
    CASE WHEN status = 'completed' THEN at END
FROM (
    SELECT r.*, 'approved' = ANY(way) AS approved,
        (SELECT jsonb_agg(jsonb_build_object('status', step,
                'at', CASE WHEN n % 19 = 0 THEN to_char(at, 'DD.MM.YYYY HH24:MI')
                           ELSE to_char((at - (9 - position) * interval '10 minutes')
                                AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') END,
                'by', CASE WHEN position = 1 THEN 'customer' ELSE 'desk-' || n % 5 END,
                'note', CASE WHEN n % 5 = 0 THEN 'agreed' END)
            || CASE WHEN n % 23 = 0 THEN '{"ip": "10.0.0.1", "seen": true}'::jsonb ELSE '{}' END
            ORDER BY position)
         FROM unnest(way) WITH ORDINALITY AS steps (step, position)) AS history
    FROM pg_temp.returned AS r
) AS r
ORDER BY n;

INSERT INTO return_items (return_request_id, order_item_id, product_id, product_sku, product_name,
                          quantity_returned, quantity_received, return_reason, condition_received,
                          unit_price, refund_amount, restocked, restocked_at, warehouse_id, metadata)
SELECT r.id, i.id, i.product_id, i.product_sku, i.product_name, i.quantity,
    CASE WHEN arrived THEN i.quantity ELSE 0 END, 'too small',
    CASE WHEN arrived THEN 'good' END, i.unit_price, i.total_price,
    r.status = 'completed', CASE WHEN r.status = 'completed' THEN r.at END, i.warehouse_id,
    CASE WHEN r.n % 12 = 0 THEN jsonb_build_object('shelf', r.n % 40) END
FROM (SELECT *, 'items_received' = ANY(way) AS arrived FROM pg_temp.returned) AS r
JOIN order_items AS i ON i.order_id = r.order_id
ORDER BY r.n, i.id;
