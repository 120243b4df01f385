-- A checkout that was completed, on whichever side, has made one order, of the same amount.
SELECT s.id AS checkout, s.total_amount, count(o.id) AS orders, sum(o.total_amount) AS ordered
  FROM checkout_sessions s
  LEFT JOIN orders o ON o.metadata ->> 'checkout_id' = s.id::text
 WHERE s.status = 'completed'
 GROUP BY s.id
HAVING count(o.id) <> 1 OR sum(o.total_amount) <> s.total_amount
