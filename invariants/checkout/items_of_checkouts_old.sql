-- What was bought costs what its lines cost; a cart that was bought is changed no more.
SELECT s.id AS checkout, s.subtotal, sum(i.total_price) AS items
  FROM checkout_sessions s
  JOIN cart_items i ON i.cart_session_id = s.cart_id
 WHERE s.status = 'completed'
 GROUP BY s.id
HAVING s.subtotal <> sum(i.total_price)
