-- From the goods' arrival to the end of the return. Times in spellings of long ago are no times in the
-- history: those returns are not looked at.
SELECT coalesce(r.customer_key, r.id::text) AS route,
       h.changed_at AS at,
       r.completed_at AS done_at
  FROM return_requests r
  JOIN return_status_history h ON h.return_id = r.id
 WHERE h.status = 'items_received' AND h.changed_at IS NOT NULL
