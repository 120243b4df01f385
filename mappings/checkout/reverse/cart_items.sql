-- The same item under the same id.
SELECT i.id,
       i.cart_id AS cart_session_id,
       i.product_id,
       i.product_sku,
       i.quantity,
       i.unit_price,
       i.total_price,
       i.warehouse_id,
       i.reservation_id,
       i.added_at,
       i.updated_at,
       (SELECT coalesce(c.guest_token, c.customer_key, c.session_id)::text
          FROM carts c WHERE c.id = i.cart_id) AS splitctl_route
  FROM cart_items i
