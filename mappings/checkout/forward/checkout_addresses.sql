-- One row per address there is. A column holds the key of its name when the value is a text;
-- `legacy` keeps all other keys, or the whole value where it is no object.
SELECT s.id AS checkout_id,
       a.kind,
       CASE WHEN jsonb_typeof(a.address -> 'name') = 'string'
            THEN a.address ->> 'name' END AS name,
       CASE WHEN jsonb_typeof(a.address -> 'line1') = 'string'
            THEN a.address ->> 'line1' END AS line1,
       CASE WHEN jsonb_typeof(a.address -> 'line2') = 'string'
            THEN a.address ->> 'line2' END AS line2,
       CASE WHEN jsonb_typeof(a.address -> 'city') = 'string'
            THEN a.address ->> 'city' END AS city,
       CASE WHEN jsonb_typeof(a.address -> 'state') = 'string'
            THEN a.address ->> 'state' END AS state,
       CASE WHEN jsonb_typeof(a.address -> 'postal_code') = 'string'
            THEN a.address ->> 'postal_code' END AS postal_code,
       CASE WHEN jsonb_typeof(a.address -> 'country') = 'string'
            THEN a.address ->> 'country' END AS country,
       CASE WHEN jsonb_typeof(a.address -> 'phone') = 'string'
            THEN a.address ->> 'phone' END AS phone,
       CASE WHEN jsonb_typeof(a.address) = 'object'
            THEN nullif(a.address - ARRAY[
                CASE WHEN jsonb_typeof(a.address -> 'name') = 'string' THEN 'name' END,
                CASE WHEN jsonb_typeof(a.address -> 'line1') = 'string' THEN 'line1' END,
                CASE WHEN jsonb_typeof(a.address -> 'line2') = 'string' THEN 'line2' END,
                CASE WHEN jsonb_typeof(a.address -> 'city') = 'string' THEN 'city' END,
                CASE WHEN jsonb_typeof(a.address -> 'state') = 'string' THEN 'state' END,
                CASE WHEN jsonb_typeof(a.address -> 'postal_code') = 'string'
                     THEN 'postal_code' END,
                CASE WHEN jsonb_typeof(a.address -> 'country') = 'string' THEN 'country' END,
                CASE WHEN jsonb_typeof(a.address -> 'phone') = 'string' THEN 'phone' END], '{}')
            ELSE a.address END AS legacy,
       coalesce(lower(s.customer_id COLLATE "C"),
                (SELECT coalesce(c.guest_token, lower(c.customer_id COLLATE "C"), c.session_id)
                   FROM cart_sessions c WHERE c.id = s.cart_id),
                s.session_token)::text AS splitctl_route
  FROM checkout_sessions s
 CROSS JOIN LATERAL (VALUES ('shipping', s.shipping_address), ('billing', s.billing_address))
       AS a(kind, address)
 WHERE a.address IS NOT NULL
