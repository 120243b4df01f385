-- Both sides hand out ids of items: the same ids belong to the same returns on both. A thousand parts,
-- so that what is written meanwhile moves few of them.
SELECT concat('part ', id % 1000) AS part, count(*) AS items, sum(id) AS ids,
       sum(hashtextextended(concat_ws(' ', id, return_request_id), 0)) AS returns
  FROM return_items
 GROUP BY part
