-- Of the customers who fill a cart, who buys? A guest's cart is merged into a customer's before it is
-- paid, so guests could only count as failures, on either side.
SELECT lower(s.customer_id COLLATE "C")::text AS route,
       s.created_at AS at,
       (SELECT min(c.completed_at) FROM checkout_sessions c
         WHERE c.cart_id = s.id AND c.status = 'completed') AS succeeded_at
  FROM cart_sessions s
 WHERE s.customer_id IS NOT NULL AND s.guest_token IS NULL
