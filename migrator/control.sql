-- The control schema: what the tool keeps inside each data database.
-- Installed by the tool's own role (no superuser, no extension). Running it again changes nothing.
-- "In the target" means: in the database that a stream writes to, so that progress is committed
-- together with the data it speaks of.

CREATE SCHEMA IF NOT EXISTS splitctl_sync;
COMMENT ON SCHEMA splitctl_sync IS 'splitctl: owner, progress and pending keys of a split';
GRANT USAGE ON SCHEMA splitctl_sync TO PUBLIC;

-- Who owns which bucket. One row per domain, on both sides: buckets below new_below belong to the
-- new side. A step locks the row FOR UPDATE; every writer that must know its owner, FOR SHARE.
CREATE TABLE IF NOT EXISTS splitctl_sync.owner (
    domain     text PRIMARY KEY,
    new_below  integer NOT NULL CHECK (new_below BETWEEN 0 AND 10000),
    epoch      bigint NOT NULL CHECK (epoch >= 0),
    changed_at timestamptz NOT NULL DEFAULT now()
);

-- How the owner row came to say what it says: each move, with the buckets it moved (those between
-- from_below and new_below). Every transaction of this database below horizon had ended before the
-- move: what it wrote is older. A move made by hand leaves no row, and then nothing is proven by it.
CREATE TABLE IF NOT EXISTS splitctl_sync.owner_move (
    domain     text NOT NULL REFERENCES splitctl_sync.owner ON DELETE CASCADE,
    epoch      bigint NOT NULL,
    from_below integer NOT NULL,
    new_below  integer NOT NULL,
    horizon    xid8 NOT NULL,
    moved_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (domain, epoch)
);

-- How far a stream has come (in the target). Position and data commit together; worker_epoch lets
-- a worker that was cut off find out that another took over. A position means nothing without the
-- system and the timeline it was read on. Every transaction of the source below horizon is decided:
-- carried or kept as a stray, or it lies parked below. A worker of the opposite stream elsewhere
-- reads it here.
CREATE TABLE IF NOT EXISTS splitctl_sync.progress (
    stream           text PRIMARY KEY,
    worker_epoch     bigint NOT NULL DEFAULT 0,
    system_id        text NOT NULL,
    timeline         integer NOT NULL,
    lsn              pg_lsn NOT NULL,
    heartbeat_at     timestamptz,
    horizon          xid8,
    source_commit_at timestamptz,
    updated_at       timestamptz NOT NULL DEFAULT now()
);

-- Transactions in which a stream wrote here (in the target), until the opposite stream has looked
-- beyond them: what they wrote is no change of somebody else, whichever process wrote it.
CREATE TABLE IF NOT EXISTS splitctl_sync.own_write (
    stream text NOT NULL,
    xid    xid8 NOT NULL,
    PRIMARY KEY (stream, xid)
);

-- What happens to a changed key of a mapping (in the target):
--   spool  it is written down and waits;
--   drain  what waits is carried, new changes join the queue;
--   live   it is carried at once.
CREATE TABLE IF NOT EXISTS splitctl_sync.mapping_state (
    stream     text NOT NULL,
    mapping    text NOT NULL,
    state      text NOT NULL CHECK (state IN ('spool', 'drain', 'live')),
    changed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (stream, mapping)
);

-- Changed keys that wait for a backfill or a drain (in the target). A key that changes a thousand
-- times is one row; gen grows each time, and a drainer removes only the generation it has read.
-- No change that the row stands for was committed before lsn, on the source; the first one counts,
-- since the row stands for it until it is removed. Null: nobody knows, so it is older than any.
CREATE TABLE IF NOT EXISTS splitctl_sync.spool (
    stream  text NOT NULL,
    mapping text NOT NULL,
    key     jsonb NOT NULL CHECK (jsonb_typeof(key) = 'array'),
    gen     bigint NOT NULL DEFAULT 1,
    lsn     pg_lsn,
    PRIMARY KEY (stream, mapping, key)
);
ALTER TABLE splitctl_sync.spool ADD COLUMN IF NOT EXISTS lsn pg_lsn;

-- Keys that are parked, because they could not be carried yet (in the target): their parent is not
-- there, the row is refused, both sides changed it, or it was asked for by the opposite stream and
-- the owner has moved away since. lsn as in the spool; a key that is parked again keeps its first.
CREATE TABLE IF NOT EXISTS splitctl_sync.waiting (
    stream   text NOT NULL,
    mapping  text NOT NULL,
    key      jsonb NOT NULL CHECK (jsonb_typeof(key) = 'array'),
    reason   text NOT NULL CHECK (reason IN ('parent', 'unwritable', 'stray-pending', 'asked')),
    detail   text,
    lsn      pg_lsn,
    since    timestamptz NOT NULL DEFAULT now(),
    attempts integer NOT NULL DEFAULT 0,
    PRIMARY KEY (stream, mapping, key)
);

-- Changes made on the side that does not own the bucket, with both versions (in the target).
-- Never deleted by the sync: settled_at, settled_how and settled_by say what became of each. asked_in
-- is the transaction whose message asked the opposite stream for the owner's version; null where no
-- mapping leads back, so that only a person can settle it. leads are the keys of the opposite stream
-- to which its rows lead. outcome, by the mapping's rule:
--   kept     the owner's version stands;
--   carried  it was written over the owner's version, in the transaction carried_in;
--   stopped  the stream waits at it until a person has settled it;
--   passed   the stream has gone on since.
CREATE TABLE IF NOT EXISTS splitctl_sync.stray (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    stream      text NOT NULL,
    mapping     text NOT NULL,
    key         jsonb NOT NULL CHECK (jsonb_typeof(key) = 'array'),
    source_rows jsonb,
    target_rows jsonb,
    owner_epoch bigint,
    lsn         pg_lsn,
    asked_in    xid8,
    seen_at     timestamptz NOT NULL DEFAULT now(),
    settled_at  timestamptz,
    settled_how text
);
ALTER TABLE splitctl_sync.stray
    ADD COLUMN IF NOT EXISTS outcome text NOT NULL DEFAULT 'kept'
        CHECK (outcome IN ('kept', 'carried', 'stopped', 'passed')),
    ADD COLUMN IF NOT EXISTS leads jsonb,
    ADD COLUMN IF NOT EXISTS carried_in xid8,
    ADD COLUMN IF NOT EXISTS settled_by text;
CREATE INDEX IF NOT EXISTS stray_unsettled
    ON splitctl_sync.stray (stream, mapping) WHERE settled_at IS NULL;
CREATE INDEX IF NOT EXISTS stray_of_key ON splitctl_sync.stray (stream, mapping, key);

-- How far the copy of a mapping has come (in the target), committed with each chunk.
-- last_key is {"source": base table, "key": [..]}: the last driving key that was copied.
CREATE TABLE IF NOT EXISTS splitctl_sync.backfill (
    stream      text NOT NULL,
    mapping     text NOT NULL,
    state       text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'copying', 'copied')),
    last_key    jsonb,
    rows        bigint NOT NULL DEFAULT 0,
    chunks      integer NOT NULL DEFAULT 0,
    started_at  timestamptz,
    finished_at timestamptz,
    PRIMARY KEY (stream, mapping)
);

-- `way` is how it is copied: 'chunks' go through a stage and never overwrite; 'fill' goes in ranges
-- into an empty table without keys, 'build' builds the keys afterwards. `keys` were copied in chunks,
-- of `keys_total` (an estimate).
ALTER TABLE splitctl_sync.backfill
    ADD COLUMN IF NOT EXISTS way text NOT NULL DEFAULT 'chunks'
        CHECK (way IN ('chunks', 'fill', 'build')),
    ADD COLUMN IF NOT EXISTS keys bigint NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS keys_total bigint;

-- Ranges of driving keys whose rows are in the target, committed with them. A bound is the key as a
-- list of texts, or null where there is none.
CREATE TABLE IF NOT EXISTS splitctl_sync.backfill_range (
    stream      text NOT NULL,
    mapping     text NOT NULL,
    number      integer NOT NULL,
    lower_key   jsonb,
    upper_key   jsonb,
    keys        bigint NOT NULL,
    rows        bigint NOT NULL,
    finished_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (stream, mapping, number)
);

-- What a person or the load on the source has to say to a running backfill (in the target).
CREATE TABLE IF NOT EXISTS splitctl_sync.backfill_control (
    stream       text PRIMARY KEY,
    paused_at    timestamptz,
    throttled_by text,
    told_at      timestamptz
);

-- What was taken off an empty table so that it can be filled fast (in the target): keys, indexes,
-- foreign keys from it and to it, triggers, its replica identity. `restore` are the statements that
-- put it back; the row goes in the transaction that runs them.
CREATE TABLE IF NOT EXISTS splitctl_sync.set_aside (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    stream     text NOT NULL,
    mapping    text NOT NULL,
    kind       text NOT NULL CHECK (kind IN ('index', 'key', 'identity', 'foreign key',
                                             'trigger', 'publication', 'guard')),
    table_name text NOT NULL,
    name       text NOT NULL,
    facts      jsonb NOT NULL DEFAULT '{}',
    restore    text[] NOT NULL
);

-- Without its keys a table cannot tell a double row, so nobody but the backfill writes to it.
CREATE OR REPLACE FUNCTION splitctl_sync.only_backfill() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF coalesce(current_setting('splitctl.filling', true), '') <> 'on' THEN
        RAISE EXCEPTION 'table % is being filled by splitctl, its keys are set aside', TG_RELID::regclass
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'splitctl backfill status';
    END IF;
    RETURN NULL;
END
$$;

-- A transaction id given out after the slot was made (in the source). A transaction below it may
-- have committed before the slot's start and yet be invisible for a while: no chunk is read before
-- every one of them has ended.
CREATE TABLE IF NOT EXISTS splitctl_sync.slot_horizon (
    stream      text PRIMARY KEY,
    below       xid8 NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT now()
);

-- Sequences whose numbers were shared out between the sides, and how they counted before.
CREATE TABLE IF NOT EXISTS splitctl_sync.sequence_share (
    domain   text NOT NULL,
    sequence text NOT NULL,
    step     bigint NOT NULL,
    PRIMARY KEY (domain, sequence)
);

-- The bucket of a stable id: the first 8 hex digits of its md5, unsigned, modulo 10,000.
-- Gateways and services compute the same in their own language.
CREATE OR REPLACE FUNCTION splitctl_sync.bucket(route text) RETURNS integer
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN (('x' || substr(md5(route), 1, 8))::bit(32)::bigint % 10000)::integer;

-- May a writer of this side touch a row with this stable id? For jobs that do not pass the gateway:
-- ask in the transaction that writes. The share lock makes a step wait for that transaction.
-- A domain without an owner row is not being split: everything is the old side's.
-- Runs with the rights of the tool's role, so that a job needs none on the tables here.
CREATE OR REPLACE FUNCTION splitctl_sync.owns(domain text, route text, side text) RETURNS boolean
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    threshold integer;
BEGIN
    IF side IS NULL OR side NOT IN ('old', 'new') THEN
        RAISE EXCEPTION 'side is old or new, not %', coalesce(quote_literal(side), 'NULL')
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    -- A queue in which nobody passes a step that waits: share locks of a row alone would, for ever.
    PERFORM pg_advisory_xact_lock_shared(hashtextextended('splitctl owner ' || owns.domain, 0));
    SELECT o.new_below INTO threshold
      FROM splitctl_sync.owner AS o WHERE o.domain = owns.domain FOR SHARE;
    IF NOT FOUND THEN
        RETURN side = 'old';
    END IF;
    -- A row without a stable id still has exactly one owner: that of the empty id.
    RETURN (splitctl_sync.bucket(coalesce(route, '')) < threshold) = (side = 'new');
END
$$;

-- The same, for who only reads: it waits for nobody, and the answer holds for this moment alone.
CREATE OR REPLACE FUNCTION splitctl_sync.serves(domain text, route text, side text) RETURNS boolean
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(
        (SELECT (splitctl_sync.bucket(coalesce(route, '')) < o.new_below) = (side = 'new')
           FROM splitctl_sync.owner AS o WHERE o.domain = serves.domain),
        side = 'old')
$$;
REVOKE ALL ON FUNCTION splitctl_sync.owns(text, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION splitctl_sync.owns(text, text, text) TO PUBLIC;
REVOKE ALL ON FUNCTION splitctl_sync.serves(text, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION splitctl_sync.serves(text, text, text) TO PUBLIC;
GRANT EXECUTE ON FUNCTION splitctl_sync.bucket(text) TO PUBLIC;
