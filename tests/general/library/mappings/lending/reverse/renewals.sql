SELECT e.id,
       e.branch      AS branch_code,
       e.number      AS loan_no,
       e.days,
       e.extended_at AS made_at,
       'reader:' || n.member_id AS splitctl_route
  FROM extensions e
  JOIN lendings n USING (branch, number)
