-- A cart is a cart session without its promotions, which become rows of their own.
-- The customer becomes a uuid; what a uuid cannot give back is kept as it was written. (The form is
-- asked for in parts: one expression that counts its characters takes four times as long a row.)
-- Only a list with entries leaves the metadata: an empty one, or none, must stay told apart.
SELECT s.id,
       s.session_id,
       CASE WHEN s.customer_id LIKE '________-____-____-____-____________'
             AND s.customer_id NOT LIKE '%-%-%-%-%-%' AND s.customer_id !~ '[^0-9a-fA-F-]'
            THEN s.customer_id::uuid END AS customer_id,
       CASE WHEN s.customer_id NOT LIKE '________-____-____-____-____________'
              OR s.customer_id LIKE '%-%-%-%-%-%' OR s.customer_id ~ '[^0-9a-f-]'
            THEN s.customer_id END AS legacy_customer_id,
       s.guest_token,
       s.status,
       s.currency,
       s.expires_at,
       CASE WHEN jsonb_typeof(s.metadata -> 'promotions') = 'array'
             AND s.metadata -> 'promotions' <> '[]'
            THEN s.metadata - 'promotions'
            ELSE s.metadata END AS metadata,
       s.version,
       s.created_at,
       s.updated_at,
       coalesce(s.guest_token, lower(s.customer_id COLLATE "C"), s.session_id)::text
           AS splitctl_route
  FROM cart_sessions s
