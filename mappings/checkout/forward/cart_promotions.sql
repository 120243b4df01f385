-- One row per entry of the list, in its order; the same promotion twice is two rows.
-- A column holds the key of its name when the value is a text (an amount: a number). `legacy` keeps
-- all else, and amounts that are not written with two places, so that the entry can be put together
-- again as it was.
SELECT s.id AS cart_id,
       e.position::integer AS position,
       CASE WHEN jsonb_typeof(e.entry -> 'code') = 'string' THEN e.entry ->> 'code' END AS code,
       CASE WHEN jsonb_typeof(e.entry -> 'type') = 'string' THEN e.entry ->> 'type' END AS type,
       a.amount AS discount_amount,
       CASE WHEN jsonb_typeof(e.entry) = 'object'
            THEN nullif(e.entry - ARRAY[
                CASE WHEN jsonb_typeof(e.entry -> 'code') = 'string' THEN 'code' END,
                CASE WHEN jsonb_typeof(e.entry -> 'type') = 'string' THEN 'type' END,
                CASE WHEN jsonb_typeof(e.entry -> 'discount_amount') = 'number'
                      AND e.entry ->> 'discount_amount' = a.amount::text
                     THEN 'discount_amount' END], '{}')
            ELSE e.entry END AS legacy,
       coalesce(s.guest_token, lower(s.customer_id COLLATE "C"), s.session_id)::text
           AS splitctl_route
  FROM cart_sessions s
 CROSS JOIN LATERAL jsonb_array_elements(
           CASE WHEN jsonb_typeof(s.metadata -> 'promotions') = 'array'
                THEN s.metadata -> 'promotions' ELSE '[]' END)
       WITH ORDINALITY AS e(entry, position)
 CROSS JOIN LATERAL (
           SELECT CASE WHEN jsonb_typeof(e.entry -> 'discount_amount') IN ('string', 'number')
                        AND e.entry ->> 'discount_amount' ~ '^-?[0-9]{1,11}(\.[0-9]+)?$'
                       THEN (e.entry ->> 'discount_amount')::numeric(14,2) END AS amount) a
