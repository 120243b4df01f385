-- The loan's fine has a table of its own on the new side; no fine, no row.
SELECT l.branch_code AS branch,
       l.loan_no     AS number,
       l.fine        AS amount,
       'reader:' || l.reader_no AS splitctl_route
  FROM loans l
 WHERE l.fine IS NOT NULL
