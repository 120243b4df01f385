-- All returns of an order together give back no more than was paid for it.
SELECT o.id AS "order", o.total_amount AS paid, sum(r.total_refund_amount) AS refunded
  FROM orders o
  JOIN return_requests r ON r.order_id = o.id
 WHERE r.status NOT IN ('rejected', 'cancelled')
 GROUP BY o.id
HAVING sum(r.total_refund_amount) > o.total_amount
