-- One row per entry of the list, in its order. A column holds its key when the value is a text;
-- a time is read only where it is a real one (months, leap days), so that no row can fail.
-- `legacy` keeps all else, so that the entry can be put together again as it was. A time stays
-- there too unless it is written as the column gives it back: UTC, six places, Z.
SELECT r.id AS return_id,
       e.position::integer AS position,
       CASE WHEN jsonb_typeof(e.entry -> 'status') = 'string'
            THEN e.entry ->> 'status' END AS status,
       t.changed_at,
       CASE WHEN jsonb_typeof(e.entry -> 'by') = 'string' THEN e.entry ->> 'by' END AS changed_by,
       CASE WHEN jsonb_typeof(e.entry -> 'note') = 'string' THEN e.entry ->> 'note' END AS note,
       CASE WHEN jsonb_typeof(e.entry) = 'object'
            THEN nullif(e.entry - ARRAY[
                CASE WHEN jsonb_typeof(e.entry -> 'status') = 'string' THEN 'status' END,
                CASE WHEN jsonb_typeof(e.entry -> 'by') = 'string' THEN 'by' END,
                CASE WHEN jsonb_typeof(e.entry -> 'note') = 'string' THEN 'note' END,
                CASE WHEN t.changed_at IS NOT NULL AND e.entry ->> 'at' ~ '\.[0-9]{6}Z$'
                     THEN 'at' END], '{}')
            ELSE e.entry END AS legacy,
       coalesce(lower(r.customer_id COLLATE "C"), r.id::text)::text AS splitctl_route
  FROM return_requests r
 CROSS JOIN LATERAL jsonb_array_elements(
           CASE WHEN jsonb_typeof(r.metadata -> 'status_history') = 'array'
                THEN r.metadata -> 'status_history' ELSE '[]' END)
       WITH ORDINALITY AS e(entry, position)
 CROSS JOIN LATERAL (
           SELECT CASE WHEN jsonb_typeof(e.entry -> 'at') = 'string' AND e.entry ->> 'at' ~
                         '^([12][0-9]{3}-'
                         '((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])'
                         '|(0[469]|11)-(0[1-9]|[12][0-9]|30)'
                         '|02-(0[1-9]|1[0-9]|2[0-8]))'
                         '|([12][0-9](0[48]|[2468][048]|[13579][26])|(12|16|20|24|28)00)-02-29)'
                         'T([01][0-9]|2[0-3])(:[0-5][0-9]){2}(\.[0-9]{1,6})?'
                         '(Z|[+-](0[0-9]|1[0-3]):[0-5][0-9])$'
                       THEN (e.entry ->> 'at')::timestamptz END AS changed_at) t
