-- Carts and items for the benchmarks: random ids, untidy customers, some promotions.
-- Words between at-signs are whole numbers, put in before running.
INSERT INTO cart_sessions (id, session_id, customer_id, guest_token, status, currency, expires_at,
                           metadata, version, created_at, updated_at)
SELECT md5('cart' || n)::uuid,
    'sess-' || md5('session' || n),
    CASE WHEN n % 4 > 0 THEN
        CASE WHEN n % 50 = 1 THEN upper(md5('customer' || n % 700000)::uuid::text)
             WHEN n % 100 = 2 THEN 'guest-' || n
             ELSE md5('customer' || n % 700000)::uuid::text END END,
    CASE WHEN n % 4 = 0 THEN 'tok-' || left(md5('token' || n), 20) END,
    CASE WHEN n % 20 < 9 THEN 'active' WHEN n % 20 < 16 THEN 'completed' ELSE 'abandoned' END,
    'USD', now() + interval '7 days',
    CASE WHEN n % 10 < 3 THEN jsonb_build_object('promotions', jsonb_build_array(
             jsonb_build_object('code', 'SAVE10', 'type', 'percentage',
                                'discount_amount', round((n % 900) / 100.0, 2))))
         WHEN n % 10 < 6 THEN '{}' END,
    1 + n % 9, now() - interval '3 hours', now() - interval '2 hours'
FROM generate_series(1, @carts@) AS n;

INSERT INTO cart_items (cart_session_id, product_id, product_sku, quantity, unit_price,
                        total_price, warehouse_id, reservation_id, added_at, updated_at)
SELECT md5('cart' || 1 + (n::bigint * 7919) % @carts@)::uuid, md5('product' || n % 4000)::uuid,
    'SKU-' || n % 4000, 1 + n % 4, (n % 9000) / 100.0, (n % 9000) / 100.0 * (1 + n % 4),
    CASE WHEN n % 50 = 0 THEN 'WH-' || 1 + n % 3 END, NULL,
    now() - interval '3 hours', now() - interval '2 hours'
FROM generate_series(1, @items@) AS n;
