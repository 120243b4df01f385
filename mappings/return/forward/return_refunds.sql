-- The refund, where the metadata holds one as an object. A column holds the key of its name when
-- the value is a text (an amount: with two places; a time: UTC, six places, Z). Only real times
-- and amounts are read, so that no row can fail. `legacy` keeps all else as it was.
SELECT r.id AS return_id,
       CASE WHEN jsonb_typeof(f.refund -> 'payment_id') = 'string'
            THEN f.refund ->> 'payment_id' END AS payment_id,
       CASE WHEN jsonb_typeof(f.refund -> 'method') = 'string'
            THEN f.refund ->> 'method' END AS method,
       v.amount,
       CASE WHEN jsonb_typeof(f.refund -> 'currency') = 'string'
            THEN f.refund ->> 'currency' END AS currency,
       CASE WHEN jsonb_typeof(f.refund -> 'status') = 'string'
            THEN f.refund ->> 'status' END AS status,
       CASE WHEN jsonb_typeof(f.refund -> 'refund_id') = 'string'
            THEN f.refund ->> 'refund_id' END AS refund_id,
       v.processed_at,
       nullif(f.refund - ARRAY[
           CASE WHEN jsonb_typeof(f.refund -> 'payment_id') = 'string' THEN 'payment_id' END,
           CASE WHEN jsonb_typeof(f.refund -> 'method') = 'string' THEN 'method' END,
           CASE WHEN f.refund -> 'amount' = to_jsonb(v.amount::text) THEN 'amount' END,
           CASE WHEN jsonb_typeof(f.refund -> 'currency') = 'string' THEN 'currency' END,
           CASE WHEN jsonb_typeof(f.refund -> 'status') = 'string' THEN 'status' END,
           CASE WHEN jsonb_typeof(f.refund -> 'refund_id') = 'string' THEN 'refund_id' END,
           CASE WHEN v.processed_at IS NOT NULL AND f.refund ->> 'processed_at' ~ '\.[0-9]{6}Z$'
                THEN 'processed_at' END], '{}') AS legacy,
       coalesce(lower(r.customer_id COLLATE "C"), r.id::text)::text AS splitctl_route
  FROM return_requests r
 CROSS JOIN LATERAL (SELECT r.metadata -> 'refund' AS refund) f
 CROSS JOIN LATERAL (
           SELECT CASE WHEN jsonb_typeof(f.refund -> 'amount') IN ('string', 'number')
                        AND f.refund ->> 'amount' ~ '^-?[0-9]{1,11}(\.[0-9]+)?$'
                       THEN (f.refund ->> 'amount')::numeric(14,2) END AS amount,
                  CASE WHEN jsonb_typeof(f.refund -> 'processed_at') = 'string'
                        AND f.refund ->> 'processed_at' ~
                         '^([12][0-9]{3}-'
                         '((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])'
                         '|(0[469]|11)-(0[1-9]|[12][0-9]|30)'
                         '|02-(0[1-9]|1[0-9]|2[0-8]))'
                         '|([12][0-9](0[48]|[2468][048]|[13579][26])|(12|16|20|24|28)00)-02-29)'
                         'T([01][0-9]|2[0-3])(:[0-5][0-9]){2}(\.[0-9]{1,6})?'
                         '(Z|[+-](0[0-9]|1[0-3]):[0-5][0-9])$'
                       THEN (f.refund ->> 'processed_at')::timestamptz END AS processed_at) v
 WHERE jsonb_typeof(f.refund) = 'object'
