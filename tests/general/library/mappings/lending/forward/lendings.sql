SELECT l.branch_code AS branch,
       l.loan_no     AS number,
       l.reader_no   AS member_id,
       l.title,
       CASE l.state WHEN 'out' THEN 'active' WHEN 'returned' THEN 'closed' ELSE 'missing' END AS status,
       l.due         AS due_on,
       l.note        AS remark,
       l.details     AS extra,
       'reader:' || l.reader_no AS splitctl_route
  FROM loans l
