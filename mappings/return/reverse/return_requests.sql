-- The return with history, refund and carrier back in the metadata. There is at most one refund and
-- one shipping row; LIMIT 1 says so to the planner, which then never scans for a handful of keys.
SELECT r.id,
       r.return_number,
       r.order_id,
       coalesce(r.legacy_customer_id, r.customer_id::text) AS customer_id,
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
       s.label_url AS return_shipping_label_url,
       s.tracking_number AS return_tracking_number,
       CASE WHEN h.entries IS NULL AND f.return_id IS NULL AND s.carrier IS NULL THEN r.metadata
            ELSE CASE WHEN jsonb_typeof(r.metadata) = 'object' THEN r.metadata ELSE '{}' END
                 || CASE WHEN h.entries IS NULL THEN '{}'
                         ELSE jsonb_build_object('status_history', h.entries) END
                 || CASE WHEN f.return_id IS NULL THEN '{}'
                         ELSE jsonb_build_object('refund',
                             jsonb_strip_nulls(jsonb_build_object(
                                 'payment_id', f.payment_id,
                                 'method', f.method,
                                 'amount', f.amount::text,
                                 'currency', f.currency,
                                 'status', f.status,
                                 'refund_id', f.refund_id,
                                 'processed_at', to_char(f.processed_at AT TIME ZONE 'UTC',
                                                         'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')))
                             || coalesce(f.legacy, '{}')) END
                 || CASE WHEN s.carrier IS NULL THEN '{}'
                         ELSE jsonb_build_object('carrier', s.carrier) END END AS metadata,
       r.created_at,
       r.updated_at,
       r.expires_at,
       r.completed_at,
       coalesce(r.customer_key, r.id::text) AS splitctl_route
  FROM return_requests r
  LEFT JOIN LATERAL (SELECT * FROM return_refunds WHERE return_id = r.id LIMIT 1) f ON true
  LEFT JOIN LATERAL (SELECT * FROM return_shipping WHERE return_id = r.id LIMIT 1) s ON true
 CROSS JOIN LATERAL (
           SELECT jsonb_agg(
                      CASE WHEN jsonb_typeof(h.legacy) <> 'object' THEN h.legacy
                           ELSE jsonb_strip_nulls(jsonb_build_object(
                                    'status', h.status,
                                    'at', to_char(h.changed_at AT TIME ZONE 'UTC',
                                                  'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
                                    'by', h.changed_by,
                                    'note', h.note))
                                || coalesce(h.legacy, '{}') END
                      ORDER BY h.position) AS entries
             FROM return_status_history h
            WHERE h.return_id = r.id) h
