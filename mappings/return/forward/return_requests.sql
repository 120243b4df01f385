-- A return without what becomes rows of its own: history, refund and shipping. Their keys leave
-- the metadata only where the rows can give them back; an empty list, or none, stays told apart.
SELECT r.id,
       r.return_number,
       r.order_id,
       CASE WHEN r.customer_id LIKE '________-____-____-____-____________'
             AND r.customer_id NOT LIKE '%-%-%-%-%-%' AND r.customer_id !~ '[^0-9a-fA-F-]'
            THEN r.customer_id::uuid END AS customer_id,
       CASE WHEN r.customer_id NOT LIKE '________-____-____-____-____________'
              OR r.customer_id LIKE '%-%-%-%-%-%' OR r.customer_id ~ '[^0-9a-f-]'
            THEN r.customer_id END AS legacy_customer_id,
       r.status,
       r.return_type,
       r.reason,
       r.description,
       r.approved_by,
       r.approved_at,
       r.processed_by,
       r.processed_at,
       r.total_refund_amount,
       r.refund_shipping,
       r.refund_tax,
       CASE WHEN jsonb_typeof(r.metadata) = 'object'
            THEN r.metadata - ARRAY[
                CASE WHEN jsonb_typeof(r.metadata -> 'status_history') = 'array'
                      AND r.metadata -> 'status_history' <> '[]' THEN 'status_history' END,
                CASE WHEN jsonb_typeof(r.metadata -> 'refund') = 'object' THEN 'refund' END,
                CASE WHEN jsonb_typeof(r.metadata -> 'carrier') = 'string' THEN 'carrier' END]
            ELSE r.metadata END AS metadata,
       r.created_at,
       r.updated_at,
       r.expires_at,
       r.completed_at,
       coalesce(lower(r.customer_id COLLATE "C"), r.id::text)::text AS splitctl_route
  FROM return_requests r
