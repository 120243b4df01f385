"""How the witness reads both sides: each query gives (id, content) for a list of ids.

The content has the shape in which the shoppers wrote it down. Written apart from the mappings on
purpose: a mistake in a mapping must not be able to hide itself here.
"""

from typing import LiteralString

OLD_CARTS: LiteralString = """
    SELECT c.id::text, jsonb_build_object(
        'status', c.status, 'version', c.version,
        'items', (SELECT jsonb_object_agg(i.id, jsonb_build_array(
                      i.product_sku, i.quantity, i.total_price::text))
                  FROM cart_items AS i WHERE i.cart_session_id = c.id),
        'promotions', (SELECT jsonb_agg(p ->> 'code') FROM jsonb_array_elements(
                           CASE WHEN jsonb_typeof(c.metadata -> 'promotions') = 'array'
                                THEN c.metadata -> 'promotions' ELSE '[]' END) AS p))
    FROM cart_sessions AS c WHERE c.id = ANY(%s::uuid[])
"""
NEW_CARTS: LiteralString = """
    SELECT c.id::text, jsonb_build_object(
        'status', c.status, 'version', c.version,
        'items', (SELECT jsonb_object_agg(i.id, jsonb_build_array(
                      i.product_sku, i.quantity, i.total_price::text))
                  FROM cart_items AS i WHERE i.cart_id = c.id),
        'promotions', (SELECT jsonb_agg(p.code) FROM cart_promotions AS p WHERE p.cart_id = c.id))
    FROM carts AS c WHERE c.id = ANY(%s::uuid[])
"""
OLD_CHECKOUTS: LiteralString = """
    SELECT c.id::text, jsonb_build_object(
        'cart_id', c.cart_id, 'status', c.status, 'shipping_address', c.shipping_address,
        'billing_address', c.billing_address, 'shipping_method_id', c.shipping_method_id,
        'payment_method_id', c.payment_method_id, 'order_id', c.metadata -> 'order_id',
        'order_number', c.metadata -> 'order_number', 'subtotal', c.subtotal::text,
        'discount_amount', c.discount_amount::text, 'shipping_amount', c.shipping_amount::text,
        'tax_amount', c.tax_amount::text, 'total_amount', c.total_amount::text)
    FROM checkout_sessions AS c WHERE c.id = ANY(%s::uuid[])
"""
NEW_CHECKOUTS: LiteralString = """
    SELECT c.id::text, jsonb_build_object(
        'cart_id', c.cart_id, 'status', c.status, 'shipping_address', s.address,
        'billing_address', b.address, 'shipping_method_id', c.shipping_method_id,
        'payment_method_id', c.payment_method_id, 'order_id', c.metadata -> 'order_id',
        'order_number', c.metadata -> 'order_number', 'subtotal', c.subtotal::text,
        'discount_amount', c.discount_amount::text, 'shipping_amount', c.shipping_amount::text,
        'tax_amount', c.tax_amount::text, 'total_amount', c.total_amount::text)
    FROM checkouts AS c
    LEFT JOIN LATERAL (
        SELECT jsonb_strip_nulls(to_jsonb(a) - '{checkout_id,kind,legacy}'::text[])
            || coalesce(a.legacy, '{}') AS address
        FROM checkout_addresses AS a WHERE a.checkout_id = c.id AND a.kind = 'shipping'
    ) AS s ON true
    LEFT JOIN LATERAL (
        SELECT jsonb_strip_nulls(to_jsonb(a) - '{checkout_id,kind,legacy}'::text[])
            || coalesce(a.legacy, '{}') AS address
        FROM checkout_addresses AS a WHERE a.checkout_id = c.id AND a.kind = 'billing'
    ) AS b ON true
    WHERE c.id = ANY(%s::uuid[])
"""
OLD_RETURNS: LiteralString = """
    SELECT r.id::text, jsonb_build_object(
        'order_id', r.order_id, 'number', r.return_number, 'status', r.status,
        'items', (SELECT jsonb_object_agg(i.id, jsonb_build_array(
                      i.order_item_id, i.quantity_returned, i.quantity_received))
                  FROM return_items AS i WHERE i.return_request_id = r.id),
        'history', (SELECT jsonb_agg(h ->> 'status' ORDER BY place)
                    FROM jsonb_array_elements(r.metadata -> 'status_history')
                        WITH ORDINALITY AS list (h, place)),
        'total', r.total_refund_amount::text, 'refund', r.metadata -> 'refund' ->> 'status')
    FROM return_requests AS r WHERE r.id = ANY(%s::uuid[])
"""
NEW_RETURNS: LiteralString = """
    SELECT r.id::text, jsonb_build_object(
        'order_id', r.order_id, 'number', r.return_number, 'status', r.status,
        'items', (SELECT jsonb_object_agg(i.id, jsonb_build_array(
                      i.order_item_id, i.quantity_returned, i.quantity_received))
                  FROM return_items AS i WHERE i.return_id = r.id),
        'history', (SELECT jsonb_agg(h.status ORDER BY h.position)
                    FROM return_status_history AS h WHERE h.return_id = r.id),
        'total', r.total_refund_amount::text,
        'refund', (SELECT f.status FROM return_refunds AS f WHERE f.return_id = r.id))
    FROM return_requests AS r WHERE r.id = ANY(%s::uuid[])
"""
ORDERS: LiteralString = """
    SELECT o.id::text, jsonb_build_object(
        'status', o.status, 'checkout_id', o.metadata ->> 'checkout_id')
    FROM orders AS o WHERE o.id = ANY(%s::uuid[])
"""
# One checkout, and one cart, gives one order.
DUPLICATES: LiteralString = """
    SELECT 'checkout', metadata ->> 'checkout_id', array_agg(order_number)
    FROM orders WHERE metadata ->> 'checkout_id' IS NOT NULL GROUP BY 2 HAVING count(*) > 1
    UNION ALL
    SELECT 'cart', metadata ->> 'cart_id', array_agg(order_number)
    FROM orders WHERE metadata ->> 'cart_id' IS NOT NULL
    GROUP BY 2 HAVING count(DISTINCT metadata ->> 'checkout_id') > 1
"""
