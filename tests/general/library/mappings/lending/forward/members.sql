SELECT r.reader_no AS member_id,
       r.name      AS full_name,
       r.email,
       r.prefs     AS preferences,
       r.joined    AS member_since,
       'reader:' || r.reader_no AS splitctl_route
  FROM readers r
