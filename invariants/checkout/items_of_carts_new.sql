-- Both sides hand out ids of items: the same ids belong to the same carts on both. Day by day; of the
-- last days in many parts, so that what is written meanwhile moves few of them.
SELECT concat_ws(' part ', (added_at AT TIME ZONE 'UTC')::date,
                 CASE WHEN added_at > current_date - 2 THEN id % 256 END) AS part,
       count(*) AS items, sum(id) AS ids,
       sum(hashtextextended(concat_ws(' ', id, cart_id), 0)) AS carts
  FROM cart_items
 GROUP BY part
