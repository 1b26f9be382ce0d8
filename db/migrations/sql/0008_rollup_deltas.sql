SET LOCAL ROLE boost_owner;

-- What settlements count, until it is folded into rollups: one row per project and settlement, a list entry per counter.
-- A counter that each settlement updated would have a version per settlement, and while a snapshot is held open, by a dump say,
-- each update has to step over all of them (docs/adr/0024). Rows are written once. No foreign key: folding passes by what a
-- deleted project left.
CREATE TABLE rollup_deltas (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    project_id  uuid NOT NULL,
    cutover     integer NOT NULL,
    metrics     text[] NOT NULL,
    starts      timestamptz[] NOT NULL,
    keys        uuid[] NOT NULL,
    dimensions  text[] NOT NULL,
    counts      bigint[] NOT NULL,
    amounts     numeric[] NOT NULL,
    event_types text[] NOT NULL,
    handlers    text[] NOT NULL,
    versions    integer[] NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now()
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_analyze_scale_factor = 0,
    autovacuum_analyze_threshold = 1000000000);
ALTER TABLE rollup_deltas ENABLE ROW LEVEL SECURITY;
ALTER TABLE rollup_deltas FORCE ROW LEVEL SECURITY;
CREATE POLICY across_projects ON rollup_deltas TO boost_pipeline USING (true) WITH CHECK (true);
CREATE POLICY one_project ON rollup_deltas TO boost_tenant
    USING (project_id = nullif(current_setting('boost.project_id', true), '')::uuid);

-- How far deltas are folded: none with an id up to folded_to is left, or will come. The same will hold of next_to once all
-- transactions below next_xid have ended. So nobody who reads deltas has to step over those that went. Nobody folds before
-- due_at.
CREATE TABLE rollup_folds (
    only_row    boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    folded_to   bigint NOT NULL DEFAULT 0,
    next_to     bigint NOT NULL DEFAULT 0,
    next_xid    bigint NOT NULL DEFAULT 0,
    due_at      timestamptz NOT NULL DEFAULT now(),
    created_at  timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 10);
INSERT INTO rollup_folds DEFAULT VALUES;

-- Adds to rollups: what a replay counts again at once, what settlements count by way of a delta. The lists are those of
-- 0007_replays.sql. Whoever draws a delta's id has a number as a transaction before: that is what rollup_folds goes by.
CREATE OR REPLACE FUNCTION boost_add_counted(
    projects uuid[], metrics text[], starts timestamptz[], keys uuid[], all_dimensions text[], counts bigint[],
    amounts numeric[], types text[], handlers text[], versions integer[], newest integer, again boolean
) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    IF again THEN
        INSERT INTO rollups AS r (project_id, metric, bucket_start, key, dimensions, count, amount,
            event_type, handler, version, cutover, replayed)
        SELECT t.project_id, t.metric, t.bucket_start, boost_key_since(t.key, newest, true) AS row_key,
            t.dimensions::text[], t.count, coalesce(t.amount, 0), t.event_type, t.handler, t.version, newest, true
        FROM unnest(projects, metrics, starts, keys, all_dimensions, counts, amounts, types, handlers, versions)
            AS t (project_id, metric, bucket_start, key, dimensions, count, amount, event_type, handler, version)
        ORDER BY t.project_id, t.metric COLLATE "C", t.bucket_start, row_key
        ON CONFLICT (project_id, metric, bucket_start, key) DO UPDATE SET
            count = r.count + excluded.count, amount = r.amount + excluded.amount;
        RETURN;
    END IF;
    -- What could not be folded is refused here, so that it costs its own event: a metric too long for the key of rollups, an
    -- amount that no sum could hold.
    IF EXISTS (SELECT 1 FROM unnest(metrics, amounts) AS t (metric, amount)
            WHERE octet_length(t.metric) > 2000 OR abs(t.amount) > 1e1000) THEN
        RAISE EXCEPTION 'a counter''s metric is over 2000 bytes long, or its amount over 1e1000'
            USING ERRCODE = 'program_limit_exceeded';
    END IF;
    PERFORM pg_current_xact_id();
    INSERT INTO rollup_deltas (project_id, cutover, metrics, starts, keys, dimensions, counts, amounts, event_types,
        handlers, versions)
    SELECT t.project_id, newest, array_agg(t.metric), array_agg(t.bucket_start), array_agg(t.key),
        array_agg(t.dimensions), array_agg(t.count), array_agg(t.amount), array_agg(t.event_type),
        array_agg(t.handler), array_agg(t.version)
    FROM unnest(projects, metrics, starts, keys, all_dimensions, counts, amounts, types, handlers, versions)
        AS t (project_id, metric, bucket_start, key, dimensions, count, amount, event_type, handler, version)
    GROUP BY t.project_id;
END
$$;

-- A count stays at the limits of its type.
CREATE FUNCTION boost_as_bigint(count numeric) RETURNS bigint
LANGUAGE sql IMMUTABLE AS $$
    SELECT least(greatest(count, -9223372036854775808), 9223372036854775807)::bigint
$$;

-- Folds up to `most` deltas into rollups, the oldest first. Returns how many; null when it is not due, which at_once passes
-- over, or somebody else folds. A tenth of the time is for folding: the next is due after nine times as long as this took, a
-- second at least and a minute at most (after due_at the clock may have been set back).
CREATE FUNCTION boost_fold_rollups(most integer, at_once boolean) RETURNS integer
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    state rollup_folds;
    drawn bigint;
    begun bigint;
    up_to bigint;
    last bigint;
    taken integer;
    started timestamptz := clock_timestamp();
BEGIN
    SELECT * INTO state FROM rollup_folds;
    IF NOT at_once AND state.due_at > started AND state.due_at < started + interval '2 minutes' THEN
        RETURN NULL;
    END IF;
    IF NOT pg_try_advisory_xact_lock(1179601988) THEN  -- "FOLD"
        RETURN NULL;
    END IF;
    SELECT * INTO state FROM rollup_folds;
    SELECT s.last_value INTO drawn FROM rollup_deltas_id_seq s;
    -- In a statement after that one: whoever has drawn an id up to `drawn` has a number below `begun`.
    begun := pg_snapshot_xmax(pg_current_snapshot())::text::bigint;
    IF drawn < state.folded_to OR begun < state.next_xid THEN
        -- The numbers of another server, of which this one is a copy.
        state.folded_to := 0;
        state.next_to := 0;
    END IF;
    up_to := state.folded_to;
    IF pg_snapshot_xmin(pg_current_snapshot())::text::bigint >= state.next_xid THEN
        up_to := greatest(up_to, state.next_to);
    END IF;
    WITH piece AS MATERIALIZED (
        SELECT d.id FROM rollup_deltas d WHERE d.id > state.folded_to ORDER BY d.id LIMIT most
    ), gone AS (
        DELETE FROM rollup_deltas d USING piece p WHERE d.id = p.id RETURNING d.*
    ), entries AS (
        SELECT g.project_id, g.cutover, t.* FROM gone g JOIN projects p ON p.id = g.project_id
        CROSS JOIN LATERAL unnest(g.metrics, g.starts, g.keys, g.dimensions, g.counts, g.amounts, g.event_types,
            g.handlers, g.versions)
            AS t (metric, bucket_start, key, dimensions, count, amount, event_type, handler, version)
    ), sums AS (
        SELECT e.project_id, e.metric, e.bucket_start,
            CASE WHEN e.event_type IS NULL OR e.cutover = 0 THEN e.key ELSE boost_key_since(e.key, e.cutover, false) END
                AS row_key,
            min(e.dimensions) AS dimensions, sum(e.count) AS count, coalesce(sum(e.amount), 0) AS amount,
            min(e.event_type) AS event_type, min(e.handler) AS handler, min(e.version) AS version,
            CASE WHEN min(e.event_type) IS NULL THEN 0 ELSE min(e.cutover) END AS cutover
        FROM entries e GROUP BY 1, 2, 3, 4
    ), added AS (
        INSERT INTO rollups AS r (project_id, metric, bucket_start, key, dimensions, count, amount,
            event_type, handler, version, cutover)
        SELECT s.project_id, s.metric, s.bucket_start, s.row_key, s.dimensions::text[], boost_as_bigint(s.count), s.amount,
            s.event_type, s.handler, s.version, s.cutover
        FROM sums s ORDER BY s.project_id, s.metric COLLATE "C", s.bucket_start, s.row_key
        ON CONFLICT (project_id, metric, bucket_start, key) DO UPDATE SET
            count = boost_as_bigint(r.count::numeric + excluded.count), amount = r.amount + excluded.amount
    )
    SELECT count(*), max(p.id) INTO taken, last FROM piece p;
    IF taken = most THEN
        up_to := least(up_to, last);
    END IF;
    IF up_to > state.folded_to OR state.next_to <= state.folded_to THEN
        state.next_to := greatest(drawn, up_to);
        state.next_xid := begun;
    END IF;
    IF taken > 0 OR up_to <> state.folded_to THEN
        UPDATE rollup_folds SET folded_to = up_to, next_to = state.next_to, next_xid = state.next_xid,
            due_at = clock_timestamp()
                + least(greatest(interval '1 second', 9 * (clock_timestamp() - started)), interval '1 minute');
    END IF;
    RETURN taken;
END
$$;

-- What questions read, as in 0007_replays.sql, from counters and from deltas that are not folded yet.
CREATE OR REPLACE VIEW current_rollups WITH (security_invoker = true) AS
SELECT r.project_id, r.metric, r.bucket_start, r.dimensions, boost_as_bigint(sum(r.count)) AS count, sum(r.amount) AS amount
FROM (
    SELECT c.project_id, c.metric, c.bucket_start, c.dimensions, c.count, c.amount, c.event_type, c.cutover, c.replayed
    FROM rollups c
    UNION ALL
    SELECT d.project_id, t.metric, t.bucket_start, t.dimensions::text[], t.count, coalesce(t.amount, 0), t.event_type,
        CASE WHEN t.event_type IS NULL THEN 0 ELSE d.cutover END, false
    FROM rollup_deltas d
    CROSS JOIN LATERAL unnest(d.metrics, d.starts, d.dimensions, d.counts, d.amounts, d.event_types)
        AS t (metric, bucket_start, dimensions, count, amount, event_type)
    WHERE d.id > (SELECT f.folded_to FROM rollup_folds f)
) AS r
CROSS JOIN LATERAL (
    SELECT coalesce(max(s.cutover), 0) AS cutover FROM rollup_switches s
    WHERE s.project_id = r.project_id AND r.bucket_start >= s.since AND r.bucket_start < s.until
        AND (coalesce(r.event_type, boost_event_type_of(r.metric, r.dimensions)) = ANY (s.event_types)) <> s.all_others
) AS switched
WHERE CASE WHEN r.replayed THEN r.cutover = switched.cutover ELSE r.cutover >= switched.cutover END
GROUP BY r.project_id, r.metric, r.bucket_start, r.dimensions;

GRANT SELECT, INSERT, DELETE ON rollup_deltas TO boost_pipeline;
GRANT SELECT ON SEQUENCE rollup_deltas_id_seq TO boost_pipeline;
GRANT SELECT, UPDATE ON rollup_folds TO boost_pipeline;
GRANT SELECT ON rollup_deltas, rollup_folds TO boost_tenant;

RESET ROLE;
