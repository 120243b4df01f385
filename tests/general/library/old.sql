-- The town's one big program: readers, what they have borrowed, how often they renewed it.
CREATE TYPE loan_state AS ENUM ('out', 'returned', 'lost');
CREATE TABLE readers (
    reader_no integer PRIMARY KEY,
    name      text NOT NULL,
    email     text,
    prefs     jsonb NOT NULL DEFAULT '{}',
    joined    date NOT NULL DEFAULT '2020-02-29'
);
CREATE TABLE loans (
    branch_code text,
    loan_no     integer,
    reader_no   integer NOT NULL REFERENCES readers,
    title       varchar(200) NOT NULL,
    state       loan_state NOT NULL DEFAULT 'out',
    due         date NOT NULL,
    note        text,
    fine        numeric(8, 2),
    details     jsonb,
    PRIMARY KEY (branch_code, loan_no)
);
CREATE TABLE renewals (
    id          bigserial PRIMARY KEY,
    branch_code text NOT NULL,
    loan_no     integer NOT NULL,
    days        smallint NOT NULL,
    made_at     timestamptz NOT NULL DEFAULT now(),
    FOREIGN KEY (branch_code, loan_no) REFERENCES loans ON DELETE CASCADE
);
CREATE INDEX ON renewals (branch_code, loan_no);
-- Stays where it is.
CREATE TABLE branches (code text PRIMARY KEY, street text);

INSERT INTO readers (reader_no, name, email, prefs)
SELECT n,
       CASE n % 7 WHEN 0 THEN 'Zoë "Quote" O''Neil' WHEN 1 THEN '' ELSE 'Reader ' || n END,
       CASE WHEN n % 3 > 0 THEN 'reader' || n || '@example.org' END,
       CASE n % 4 WHEN 0 THEN '{}'::jsonb
                  WHEN 1 THEN '{"news": true, "sizes": [1, 2.50, null], "words": {"a": "ä\\n"}}'
                  WHEN 2 THEN 'null'
                  ELSE jsonb_build_object('n', n) END
  FROM generate_series(1, 300) AS n;
INSERT INTO loans (branch_code, loan_no, reader_no, title, state, due, note, fine, details)
SELECT (ARRAY['north', 'süd', 'E/2'])[1 + n % 3],
       n,
       1 + n % 300,
       'Title ' || n,
       (ARRAY['out', 'returned', 'lost'])[1 + n % 5 % 3]::loan_state,
       date '2026-01-01' + n % 90,
       CASE n % 4 WHEN 0 THEN '' WHEN 1 THEN 'torn, p. 7' END,
       CASE WHEN n % 6 = 0 THEN n / 10.0 END,
       CASE WHEN n % 5 > 0 THEN jsonb_build_object('shelf', n % 11) END
  FROM generate_series(1, 900) AS n;
INSERT INTO renewals (branch_code, loan_no, days)
SELECT branch_code, loan_no, 7 * k
  FROM loans, generate_series(1, 2) AS k
 WHERE loan_no % 4 = k;
