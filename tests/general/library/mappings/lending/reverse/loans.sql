SELECT n.branch    AS branch_code,
       n.number    AS loan_no,
       n.member_id AS reader_no,
       n.title,
       CASE n.status WHEN 'active' THEN 'out' WHEN 'closed' THEN 'returned' ELSE 'lost' END AS state,
       n.due_on    AS due,
       n.remark    AS note,
       f.amount    AS fine,
       n.extra     AS details,
       'reader:' || n.member_id AS splitctl_route
  FROM lendings n
  LEFT JOIN fines f USING (branch, number)
