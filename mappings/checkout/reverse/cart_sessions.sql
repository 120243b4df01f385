-- The cart session with its promotions back in the metadata, as a list in their order.
SELECT c.id,
       c.session_id,
       coalesce(c.legacy_customer_id, c.customer_id::text) AS customer_id,
       c.guest_token,
       c.status,
       c.currency,
       c.expires_at,
       CASE WHEN p.entries IS NULL THEN c.metadata
            ELSE CASE WHEN jsonb_typeof(c.metadata) = 'object' THEN c.metadata ELSE '{}' END
                 || jsonb_build_object('promotions', p.entries) END AS metadata,
       c.version,
       c.created_at,
       c.updated_at,
       coalesce(c.guest_token, c.customer_key, c.session_id)::text AS splitctl_route
  FROM carts c
 CROSS JOIN LATERAL (
           SELECT jsonb_agg(
                      CASE WHEN jsonb_typeof(p.legacy) <> 'object' THEN p.legacy
                           ELSE jsonb_strip_nulls(jsonb_build_object(
                                    'code', p.code,
                                    'type', p.type,
                                    'discount_amount', p.discount_amount))
                                || coalesce(p.legacy, '{}') END
                      ORDER BY p.position) AS entries
             FROM cart_promotions p
            WHERE p.cart_id = c.id) p
