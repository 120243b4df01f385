-- The same item under the same id. The route is the cart's, and a cart's route never changes.
SELECT i.id,
       i.cart_session_id AS cart_id,
       i.product_id,
       i.product_sku,
       i.quantity,
       i.unit_price,
       i.total_price,
       i.warehouse_id,
       i.reservation_id,
       i.added_at,
       i.updated_at,
       (SELECT coalesce(s.guest_token, lower(s.customer_id COLLATE "C"), s.session_id)::text
          FROM cart_sessions s WHERE s.id = i.cart_session_id) AS splitctl_route
  FROM cart_items i
