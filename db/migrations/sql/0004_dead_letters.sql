SET LOCAL ROLE boost_owner;

-- What will not be tried again by itself: an event that failed, under the event's own id; or a message that nobody could
-- read, under a hash of where it stood and what it said, and of no project. An event has one letter at most, however often
-- it fails: history holds its earlier failures, each with the time at which somebody replayed it. closed_at is when a
-- letter was resolved or discarded.
--
-- Not partitioned: letters are few beside events, they leave with their project, their event or a month after they were
-- closed, and are found by id as well as by time (docs/adr/0014). No index names status: replaying a letter is a HOT update.
CREATE TABLE dead_letters (
    project_id       uuid REFERENCES projects ON DELETE CASCADE,
    id               uuid NOT NULL,
    event_type       text,
    handler          text,
    topic            text,
    partition        integer,
    "offset"         bigint,
    raw              bytea,
    code             text NOT NULL,
    field            text,
    message          text NOT NULL,
    attempts         integer NOT NULL,
    first_failed_at  timestamptz NOT NULL DEFAULT now(),
    created_at       timestamptz NOT NULL DEFAULT now(),
    last_failed_at   timestamptz NOT NULL DEFAULT now(),
    status           text NOT NULL DEFAULT 'open' CHECK (status IN ('open', 'replaying', 'resolved', 'discarded')),
    replays          integer NOT NULL DEFAULT 0,
    history          jsonb NOT NULL DEFAULT '[]',
    closed_at        timestamptz,
    UNIQUE NULLS NOT DISTINCT (project_id, id)
) WITH (fillfactor = 80);
-- Lists are newest first; a replay by filter goes the other way, a piece at a time.
CREATE INDEX dead_letters_by_time ON dead_letters (project_id, last_failed_at, id);
CREATE INDEX dead_letters_closed ON dead_letters (closed_at) WHERE closed_at IS NOT NULL;

ALTER TABLE dead_letters ENABLE ROW LEVEL SECURITY;
ALTER TABLE dead_letters FORCE ROW LEVEL SECURITY;
CREATE POLICY across_projects ON dead_letters TO boost_pipeline USING (true) WITH CHECK (true);
CREATE POLICY one_project ON dead_letters TO boost_tenant
    USING (project_id = nullif(current_setting('boost.project_id', true), '')::uuid);
GRANT SELECT, INSERT, UPDATE, DELETE ON dead_letters TO boost_pipeline;
GRANT SELECT ON dead_letters TO boost_tenant;
GRANT UPDATE (status, replays, history, closed_at) ON dead_letters TO boost_tenant;

-- asked_attempt: the attempt at which somebody last asked for another try; a handler's limit counts from there.
-- trying_since: when a handler first answered "try again" since then; null until it does.
ALTER TABLE event_retries ADD COLUMN asked_attempt integer NOT NULL DEFAULT 0, ADD COLUMN trying_since timestamptz;

-- Writes the letters of events that failed, in the transaction that moves them. The lists come in the order of
-- (project, id): that is the order of the locks. A letter that is there already was replayed, and failed again.
CREATE FUNCTION boost_bury(
    projects uuid[], ids uuid[], types text[], handlers text[], codes text[], fields text[], messages text[],
    attempts integer[], topics text[], partitions integer[], offsets bigint[]
) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    INSERT INTO dead_letters AS d
        (project_id, id, event_type, handler, code, field, message, attempts, topic, partition, "offset")
    SELECT * FROM unnest(
        projects, ids, types, handlers, codes, fields, messages, attempts, topics, partitions, offsets)
    ON CONFLICT (project_id, id) DO UPDATE SET
        event_type = excluded.event_type, handler = excluded.handler, code = excluded.code, field = excluded.field,
        message = excluded.message, attempts = excluded.attempts, last_failed_at = excluded.last_failed_at,
        topic = excluded.topic, partition = excluded.partition, "offset" = excluded."offset",
        status = 'open', closed_at = NULL;
END
$$;

-- As boost_settle, for a batch of which some events failed: their letters are written as well. Locks: events, batches,
-- dead letters, end users, rollups, each list sorted. Why batch by batch: see boost_settle.
CREATE FUNCTION boost_settle_with_failures(
    event_projects uuid[], event_ids uuid[], errors jsonb[],
    batch_ids uuid[], batch_moved integer[],
    user_projects uuid[], user_keys uuid[], user_names text[], traits jsonb[], versions jsonb[],
    first_times timestamptz[], last_times timestamptz[], sign_ups timestamptz[], logins bigint[],
    rollup_projects uuid[], metrics text[], starts timestamptz[], rollup_keys uuid[], all_dimensions text[],
    counts bigint[], amounts numeric[],
    letter_projects uuid[], letter_ids uuid[], types text[], handlers text[], codes text[], fields text[],
    messages text[], attempts integer[], topics text[], partitions integer[], offsets bigint[]
) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
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
        why := errors[first:last];
        UPDATE events e SET
            status = CASE WHEN why[array_position(ids, e.id)] IS NULL THEN 'processed' ELSE 'failed' END,
            error = why[array_position(ids, e.id)], settled_at = now()
        WHERE e.project_id = ANY (projects) AND e.id BETWEEN ids[1] AND ids[cardinality(ids)]
            AND array_position(ids, e.id) IS NOT NULL AND e.status = 'pending' AND e.attempt = 0;
        GET DIAGNOSTICS changed = ROW_COUNT;
        moved := moved + changed;
        first := last + 1;
    END LOOP;
    IF moved <> cardinality(event_ids) THEN
        RAISE EXCEPTION 'some of these events were moved before' USING ERRCODE = 'BST01';
    END IF;
    PERFORM boost_take_off_batches(batch_ids, batch_moved);
    PERFORM boost_bury(letter_projects, letter_ids, types, handlers, codes, fields, messages, attempts, topics,
        partitions, offsets);
    IF cardinality(user_keys) > 0 THEN
        PERFORM boost_see_end_users(
            user_projects, user_keys, user_names, traits, versions, first_times, last_times, sign_ups, logins);
    END IF;
    PERFORM boost_add_rollups(rollup_projects, metrics, starts, rollup_keys, all_dimensions, counts, amounts);
END
$$;

RESET ROLE;
