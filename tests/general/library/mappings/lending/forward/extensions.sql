SELECT w.id,
       w.branch_code AS branch,
       w.loan_no     AS number,
       w.days,
       w.made_at     AS extended_at,
       'reader:' || l.reader_no AS splitctl_route
  FROM renewals w
  JOIN loans l USING (branch_code, loan_no)
