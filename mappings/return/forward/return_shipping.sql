-- How the return travels, where anything is known of it.
SELECT r.id AS return_id,
       r.return_shipping_label_url AS label_url,
       r.return_tracking_number AS tracking_number,
       CASE WHEN jsonb_typeof(r.metadata -> 'carrier') = 'string'
            THEN r.metadata ->> 'carrier' END AS carrier,
       coalesce(lower(r.customer_id COLLATE "C"), r.id::text)::text AS splitctl_route
  FROM return_requests r
 WHERE r.return_shipping_label_url IS NOT NULL
    OR r.return_tracking_number IS NOT NULL
    OR jsonb_typeof(r.metadata -> 'carrier') = 'string'
