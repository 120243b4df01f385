-- A checkout is a checkout session without its addresses, which become rows of their own.
-- A guest's checkout has the route of its cart.
SELECT s.id,
       s.session_token,
       CASE WHEN s.customer_id LIKE '________-____-____-____-____________'
             AND s.customer_id NOT LIKE '%-%-%-%-%-%' AND s.customer_id !~ '[^0-9a-fA-F-]'
            THEN s.customer_id::uuid END AS customer_id,
       CASE WHEN s.customer_id NOT LIKE '________-____-____-____-____________'
              OR s.customer_id LIKE '%-%-%-%-%-%' OR s.customer_id ~ '[^0-9a-f-]'
            THEN s.customer_id END AS legacy_customer_id,
       s.cart_id,
       s.status,
       s.payment_method_id,
       s.payment_method_type,
       s.shipping_method_id,
       s.shipping_method_name,
       s.shipping_cost,
       s.subtotal,
       s.tax_amount,
       s.shipping_amount,
       s.discount_amount,
       s.total_amount,
       s.metadata,
       s.created_at,
       s.updated_at,
       s.expires_at,
       s.completed_at,
       coalesce(lower(s.customer_id COLLATE "C"),
                (SELECT coalesce(c.guest_token, lower(c.customer_id COLLATE "C"), c.session_id)
                   FROM cart_sessions c WHERE c.id = s.cart_id),
                s.session_token)::text AS splitctl_route
  FROM checkout_sessions s
