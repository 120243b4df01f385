-- Everybody who gets a cart, guests too.
SELECT coalesce(s.guest_token, lower(s.customer_id COLLATE "C"), s.session_id)::text AS route,
       s.created_at AS at
  FROM cart_sessions s
