-- The same item under the same id. The route is the return's, which never changes.
SELECT i.id,
       i.return_request_id AS return_id,
       i.order_item_id,
       i.product_id,
       i.product_sku,
       i.product_name,
       i.quantity_returned,
       i.quantity_received,
       i.return_reason,
       i.condition_received,
       i.unit_price,
       i.refund_amount,
       i.restocked,
       i.restocked_at,
       i.warehouse_id,
       i.metadata,
       (SELECT coalesce(lower(r.customer_id COLLATE "C"), r.id::text)::text
          FROM return_requests r WHERE r.id = i.return_request_id) AS splitctl_route
  FROM return_items i
