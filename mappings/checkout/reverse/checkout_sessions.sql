-- The checkout session with both addresses back in their columns.
SELECT k.id,
       k.session_token,
       coalesce(k.legacy_customer_id, k.customer_id::text) AS customer_id,
       k.cart_id,
       k.status,
       (SELECT CASE WHEN jsonb_typeof(a.legacy) <> 'object' THEN a.legacy
                    ELSE jsonb_strip_nulls(jsonb_build_object(
                             'name', a.name, 'line1', a.line1, 'line2', a.line2, 'city', a.city,
                             'state', a.state, 'postal_code', a.postal_code,
                             'country', a.country, 'phone', a.phone))
                         || coalesce(a.legacy, '{}') END
          FROM checkout_addresses a
         WHERE a.checkout_id = k.id AND a.kind = 'shipping') AS shipping_address,
       (SELECT CASE WHEN jsonb_typeof(a.legacy) <> 'object' THEN a.legacy
                    ELSE jsonb_strip_nulls(jsonb_build_object(
                             'name', a.name, 'line1', a.line1, 'line2', a.line2, 'city', a.city,
                             'state', a.state, 'postal_code', a.postal_code,
                             'country', a.country, 'phone', a.phone))
                         || coalesce(a.legacy, '{}') END
          FROM checkout_addresses a
         WHERE a.checkout_id = k.id AND a.kind = 'billing') AS billing_address,
       k.payment_method_id,
       k.payment_method_type,
       k.shipping_method_id,
       k.shipping_method_name,
       k.shipping_cost,
       k.subtotal,
       k.tax_amount,
       k.shipping_amount,
       k.discount_amount,
       k.total_amount,
       k.metadata,
       k.created_at,
       k.updated_at,
       k.expires_at,
       k.completed_at,
       coalesce(k.customer_key,
                (SELECT coalesce(c.guest_token, c.customer_key, c.session_id)
                   FROM carts c WHERE c.id = k.cart_id),
                k.session_token)::text AS splitctl_route
  FROM checkouts k
