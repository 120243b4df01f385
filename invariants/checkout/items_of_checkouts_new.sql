-- What was bought costs what its lines cost; a cart that was bought is changed no more.
SELECT c.id AS checkout, c.subtotal, sum(i.total_price) AS items
  FROM checkouts c
  JOIN cart_items i ON i.cart_id = c.cart_id
 WHERE c.status = 'completed'
 GROUP BY c.id
HAVING c.subtotal <> sum(i.total_price)
