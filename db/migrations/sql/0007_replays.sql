SET LOCAL ROLE boost_owner;

-- How often a replay has begun: events that settle carry the number, and so do the counters they add to. A replay counts
-- the events that settled before its number was there; live settling counts the others (docs/adr/0019).
CREATE TABLE cutovers (
    only_row    boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    newest      integer NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now()
);
INSERT INTO cutovers (newest) VALUES (0);

-- Stored events that are run again through their handler. id is the number of the cut-over. event_types are those that are
-- replayed or, with all_others, those that are not. since and until are UTC midnights, of occurred_at. runner is the
-- process that works on it.
CREATE TABLE replays (
    id              integer PRIMARY KEY,
    handler         text NOT NULL,
    version         integer NOT NULL,
    event_types     text[] NOT NULL,
    all_others      boolean NOT NULL,
    since           timestamptz NOT NULL,
    until           timestamptz NOT NULL CHECK (until > since),
    project_id      uuid,
    rate            integer NOT NULL CHECK (rate >= 0),
    state           text NOT NULL DEFAULT 'waiting'
        CHECK (state IN ('waiting', 'running', 'switched', 'complete', 'cancelled')),
    runner          uuid,
    events_read     bigint NOT NULL DEFAULT 0,
    events_counted  bigint NOT NULL DEFAULT 0,
    events_refused  bigint NOT NULL DEFAULT 0,
    problem         text,
    created_at      timestamptz NOT NULL DEFAULT now(),
    worked_at       timestamptz,
    switched_at     timestamptz,
    ended_at        timestamptz
) WITH (fillfactor = 50);

-- What a replay has to do for each project: events after start_id, up to cutover_id; it is past position. A row goes when
-- the counters that the replay took the place of are gone.
CREATE TABLE replay_projects (
    replay_id   integer NOT NULL REFERENCES replays ON DELETE CASCADE,
    project_id  uuid NOT NULL REFERENCES projects ON DELETE CASCADE,
    since       timestamptz NOT NULL,
    start_id    uuid NOT NULL,
    cutover_id  uuid NOT NULL,
    position    uuid NOT NULL,
    done        boolean NOT NULL DEFAULT false,
    created_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (replay_id, project_id)
) WITH (fillfactor = 50);

-- Which counters questions read: those of these event types and buckets from this replay, and what settled after its
-- cut-over. Where several match the newest holds; where none does, all that was counted live.
CREATE TABLE rollup_switches (
    project_id   uuid NOT NULL REFERENCES projects ON DELETE CASCADE,
    cutover      integer NOT NULL,
    event_types  text[] NOT NULL,
    all_others   boolean NOT NULL,
    since        timestamptz NOT NULL,
    until        timestamptz NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (project_id, cutover)
);
ALTER TABLE rollup_switches ENABLE ROW LEVEL SECURITY;
ALTER TABLE rollup_switches FORCE ROW LEVEL SECURITY;
CREATE POLICY across_projects ON rollup_switches TO boost_pipeline USING (true) WITH CHECK (true);
CREATE POLICY one_project ON rollup_switches TO boost_tenant
    USING (project_id = nullif(current_setting('boost.project_id', true), '')::uuid);

-- cutover: the newest when the event settled; null before the first.
ALTER TABLE events ADD COLUMN cutover integer;
-- Whose effect a counter is: null for totals, which are nobody's, and for what workers of the release before counted.
ALTER TABLE rollups
    ADD COLUMN event_type text,
    ADD COLUMN handler text,
    ADD COLUMN version integer,
    ADD COLUMN cutover integer NOT NULL DEFAULT 0,
    ADD COLUMN replayed boolean NOT NULL DEFAULT false;
-- Which version of each handler a worker runs; null for one of the release before.
ALTER TABLE workers ADD COLUMN handlers jsonb;

-- The newest cut-over. Whoever reads it has a number as a transaction before: a replay that waits for the end of all
-- transactions that had one when its cut-over was committed has then seen the end of all that settled before it.
CREATE FUNCTION boost_cutover() RETURNS integer
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    found integer;
BEGIN
    PERFORM pg_current_xact_id();
    SELECT newest INTO found FROM cutovers;
    RETURN found;
END
$$;

-- The type of the events that a counter of the release before comes from, by its metric.
CREATE FUNCTION boost_event_type_of(metric text, dimensions text[]) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE metric
        WHEN 'page_views' THEN 'page_view' WHEN 'referrers' THEN 'page_view' WHEN 'campaigns' THEN 'page_view'
        WHEN 'clicks' THEN 'click' WHEN 'form_submits' THEN 'form_submit'
        WHEN 'revenue' THEN 'payment_completed' WHEN 'payment_failures' THEN 'payment_failed'
        WHEN 'event_types' THEN dimensions[1] END
$$;

-- The key of a counter after a cut-over: its own row beside the one from before it.
CREATE FUNCTION boost_key_since(key uuid, cutover integer, replayed boolean) RETURNS uuid
LANGUAGE sql IMMUTABLE AS $$
    SELECT encode(substr(sha256(uuid_send(key) || int4send(cutover) || boolsend(replayed)), 1, 16), 'hex')::uuid
$$;

-- Adds to rollups, as boost_add_rollups does, with whose effect each counter is. Counters of no event type are totals: no
-- cut-over divides them. The rows are sorted here: after a cut-over their keys are others than the caller knows.
CREATE FUNCTION boost_add_counted(
    projects uuid[], metrics text[], starts timestamptz[], keys uuid[], all_dimensions text[], counts bigint[],
    amounts numeric[], types text[], handlers text[], versions integer[], newest integer, again boolean
) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    INSERT INTO rollups AS r (project_id, metric, bucket_start, key, dimensions, count, amount,
        event_type, handler, version, cutover, replayed)
    SELECT t.project_id, t.metric, t.bucket_start,
        CASE WHEN t.event_type IS NULL OR newest = 0 THEN t.key ELSE boost_key_since(t.key, newest, again) END AS row_key,
        t.dimensions::text[], t.count, coalesce(t.amount, 0), t.event_type, t.handler, t.version,
        CASE WHEN t.event_type IS NULL THEN 0 ELSE newest END, again AND t.event_type IS NOT NULL
    FROM unnest(projects, metrics, starts, keys, all_dimensions, counts, amounts, types, handlers, versions)
        AS t (project_id, metric, bucket_start, key, dimensions, count, amount, event_type, handler, version)
    ORDER BY t.project_id, t.metric COLLATE "C", t.bucket_start, row_key
    ON CONFLICT (project_id, metric, bucket_start, key) DO UPDATE SET
        count = r.count + excluded.count, amount = r.amount + excluded.amount;
END
$$;

-- What workers of the release before call, by itself or within boost_settle. After a cut-over they too count on its far
-- side, or questions would no longer find what they count.
CREATE OR REPLACE FUNCTION boost_add_rollups(
    projects uuid[], metrics text[], starts timestamptz[], keys uuid[], all_dimensions text[], counts bigint[],
    amounts numeric[]
) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    newest integer := boost_cutover();
    types text[];
BEGIN
    IF newest > 0 THEN
        types := ARRAY(
            SELECT boost_event_type_of(t.metric, t.dimensions::text[])
            FROM unnest(metrics, all_dimensions) WITH ORDINALITY AS t (metric, dimensions, n) ORDER BY t.n);
    END IF;
    PERFORM boost_add_counted(projects, metrics, starts, keys, all_dimensions, counts, amounts, types, NULL, NULL,
        newest, false);
END
$$;

-- Settles a batch in one call, as boost_settle and boost_settle_with_failures do: the release before goes on calling those.
-- Letters may be missing. Why batch by batch, and what BST01 says: see boost_settle (0003_settle_at_once.sql). Locks: events,
-- batches, dead letters, end users, rollups, each list sorted.
CREATE FUNCTION boost_settle_counted(
    event_projects uuid[], event_ids uuid[], errors jsonb[],
    batch_ids uuid[], batch_moved integer[],
    user_projects uuid[], user_keys uuid[], user_names text[], traits jsonb[], versions jsonb[],
    first_times timestamptz[], last_times timestamptz[], sign_ups timestamptz[], logins bigint[],
    rollup_projects uuid[], metrics text[], starts timestamptz[], rollup_keys uuid[], all_dimensions text[],
    counts bigint[], amounts numeric[], rollup_types text[], rollup_handlers text[], rollup_versions integer[],
    letter_projects uuid[], letter_ids uuid[], types text[], handlers text[], codes text[], fields text[],
    messages text[], attempts integer[], topics text[], partitions integer[], offsets bigint[]
) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    newest integer := boost_cutover();
    mark integer := nullif(newest, 0);
    first integer := 1;
    last integer;
    changed integer;
    moved integer := 0;
    ids uuid[];
    projects uuid[];
    why jsonb[];
BEGIN
    FOR n IN 1 .. cardinality(batch_ids) LOOP
        last := first + batch_moved[n] - 1;
        ids := event_ids[first:last];
        projects := event_projects[first:last];
        IF errors IS NULL THEN
            UPDATE events e SET status = 'processed', settled_at = now(), cutover = mark
            WHERE e.project_id = ANY (projects) AND e.id BETWEEN ids[1] AND ids[cardinality(ids)]
                AND array_position(ids, e.id) IS NOT NULL AND e.status = 'pending' AND e.attempt = 0;
        ELSE
            why := errors[first:last];
            UPDATE events e SET
                status = CASE WHEN why[array_position(ids, e.id)] IS NULL THEN 'processed' ELSE 'failed' END,
                error = why[array_position(ids, e.id)], settled_at = now(), cutover = mark
            WHERE e.project_id = ANY (projects) AND e.id BETWEEN ids[1] AND ids[cardinality(ids)]
                AND array_position(ids, e.id) IS NOT NULL AND e.status = 'pending' AND e.attempt = 0;
        END IF;
        GET DIAGNOSTICS changed = ROW_COUNT;
        moved := moved + changed;
        first := last + 1;
    END LOOP;
    IF moved <> cardinality(event_ids) THEN
        RAISE EXCEPTION 'some of these events were moved before' USING ERRCODE = 'BST01';
    END IF;
    PERFORM boost_take_off_batches(batch_ids, batch_moved);
    IF cardinality(letter_ids) > 0 THEN
        PERFORM boost_bury(letter_projects, letter_ids, types, handlers, codes, fields, messages, attempts, topics,
            partitions, offsets);
    END IF;
    IF cardinality(user_keys) > 0 THEN
        PERFORM boost_see_end_users(
            user_projects, user_keys, user_names, traits, versions, first_times, last_times, sign_ups, logins);
    END IF;
    PERFORM boost_add_counted(rollup_projects, metrics, starts, rollup_keys, all_dimensions, counts, amounts,
        rollup_types, rollup_handlers, rollup_versions, newest, false);
END
$$;

-- What questions read: each counter once, from the newest replay that has its event type and bucket, or as counted live.
CREATE VIEW current_rollups WITH (security_invoker = true) AS
SELECT r.project_id, r.metric, r.bucket_start, r.dimensions, sum(r.count)::bigint AS count, sum(r.amount) AS amount
FROM rollups r
CROSS JOIN LATERAL (
    SELECT coalesce(max(s.cutover), 0) AS cutover FROM rollup_switches s
    WHERE s.project_id = r.project_id AND r.bucket_start >= s.since AND r.bucket_start < s.until
        AND (coalesce(r.event_type, boost_event_type_of(r.metric, r.dimensions)) = ANY (s.event_types)) <> s.all_others
) AS switched
WHERE CASE WHEN r.replayed THEN r.cutover = switched.cutover ELSE r.cutover >= switched.cutover END
GROUP BY r.project_id, r.metric, r.bucket_start, r.dimensions;

GRANT SELECT, INSERT, UPDATE, DELETE ON cutovers, replays, replay_projects, rollup_switches TO boost_pipeline;
GRANT SELECT ON rollup_switches, current_rollups TO boost_tenant;
GRANT SELECT ON current_rollups TO boost_pipeline;

RESET ROLE;
