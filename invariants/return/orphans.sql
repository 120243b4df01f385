-- Orders stay where they are: no foreign key can hold a return to its order any more.
SELECT r.id AS return, r.order_id AS "order", NULL::bigint AS order_item
  FROM return_requests r
 WHERE NOT EXISTS (SELECT FROM orders o WHERE o.id = r.order_id)
UNION ALL
SELECT i.return_request_id, NULL, i.order_item_id
  FROM return_items i
 WHERE i.order_item_id IS NOT NULL
   AND NOT EXISTS (SELECT FROM order_items o WHERE o.id = i.order_item_id)
