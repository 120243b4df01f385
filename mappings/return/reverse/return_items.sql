-- The same item under the same id.
SELECT i.id,
       i.return_id AS return_request_id,
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
       (SELECT coalesce(r.customer_key, r.id::text)
          FROM return_requests r WHERE r.id = i.return_id) AS splitctl_route
  FROM return_items i
