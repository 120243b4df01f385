SELECT m.member_id    AS reader_no,
       m.full_name    AS name,
       m.email,
       m.preferences  AS prefs,
       m.member_since AS joined,
       'reader:' || m.member_id AS splitctl_route
  FROM members m
