SET LOCAL ROLE boost_owner;

-- Rows that come in one list in place of a list per column (docs/adr/0026). A type never changes: connections remember it.

-- An event on its way in, and the key of its messageId.
CREATE TYPE boost_new_event AS (
    id                 uuid,
    project_id         uuid,
    event_type         text,
    user_id            text,
    anonymous_id       text,
    session_id         text,
    message_id         text,
    payload            jsonb,
    occurred_at        timestamptz,
    original_timestamp timestamptz,
    key                uuid
);
-- What a batch says of one end user: a row of end_users.
CREATE TYPE boost_sighting AS (
    project_id     uuid,
    id             uuid,
    user_id        text,
    traits         jsonb,
    trait_versions jsonb,
    first_seen_at  timestamptz,
    last_seen_at   timestamptz,
    signed_up_at   timestamptz,
    logins         bigint
);
-- What is added to one counter. bucket_start is in seconds since 1970; dimensions is an array written as text; a missing
-- amount is 0.
CREATE TYPE boost_counted AS (
    project_id   uuid,
    metric       text,
    bucket_start bigint,
    key          uuid,
    dimensions   text,
    count        bigint,
    amount       numeric,
    event_type   text,
    handler      text,
    version      integer
);

-- As in 0003_settle_at_once.sql. The list comes in the order of the primary key: that is the order of the locks.
CREATE FUNCTION boost_see_end_users(sightings boost_sighting[]) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    INSERT INTO end_users AS u
        (project_id, id, user_id, traits, trait_versions, first_seen_at, last_seen_at, signed_up_at, logins)
    SELECT * FROM unnest(sightings)
    ON CONFLICT (project_id, id) DO UPDATE SET
        traits = boost_merge_traits(u.traits, u.trait_versions, excluded.traits, excluded.trait_versions),
        trait_versions = boost_merge_versions(u.trait_versions, excluded.trait_versions),
        first_seen_at = least(u.first_seen_at, excluded.first_seen_at),
        last_seen_at = greatest(u.last_seen_at, excluded.last_seen_at),
        signed_up_at = least(u.signed_up_at, excluded.signed_up_at),
        logins = u.logins + excluded.logins;
END
$$;

-- As in 0008_rollup_deltas.sql.
CREATE FUNCTION boost_add_counted(counted boost_counted[], newest integer, again boolean) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    IF again THEN
        INSERT INTO rollups AS r (project_id, metric, bucket_start, key, dimensions, count, amount,
            event_type, handler, version, cutover, replayed)
        SELECT t.project_id, t.metric, to_timestamp(t.bucket_start) AS row_start,
            boost_key_since(t.key, newest, true) AS row_key,
            t.dimensions::text[], t.count, coalesce(t.amount, 0), t.event_type, t.handler, t.version, newest, true
        FROM unnest(counted) AS t
        ORDER BY t.project_id, t.metric COLLATE "C", row_start, row_key
        ON CONFLICT (project_id, metric, bucket_start, key) DO UPDATE SET
            count = r.count + excluded.count, amount = r.amount + excluded.amount;
        RETURN;
    END IF;
    IF EXISTS (SELECT 1 FROM unnest(counted) AS t WHERE octet_length(t.metric) > 2000 OR abs(t.amount) > 1e1000) THEN
        RAISE EXCEPTION 'a counter''s metric is over 2000 bytes long, or its amount over 1e1000'
            USING ERRCODE = 'program_limit_exceeded';
    END IF;
    PERFORM pg_current_xact_id();
    INSERT INTO rollup_deltas (project_id, cutover, metrics, starts, keys, dimensions, counts, amounts, event_types,
        handlers, versions)
    SELECT t.project_id, newest, array_agg(t.metric), array_agg(to_timestamp(t.bucket_start)), array_agg(t.key),
        array_agg(t.dimensions), array_agg(t.count), array_agg(t.amount), array_agg(t.event_type),
        array_agg(t.handler), array_agg(t.version)
    FROM unnest(counted) AS t
    GROUP BY t.project_id;
END
$$;

-- Settles a batch in one call, as boost_settle_counted of 0007_replays.sql does: events of attempt 0 become processed, or
-- failed where errors has something, and their effects are written; all of them or nothing (BST01). event_ids are sorted,
-- and of the first batch_moved[1] in batch_ids[1], and so on; batch_projects are the projects of each batch likewise, so
-- many as batch_tenants says. Letters, where there are any, are the lists of boost_bury.
CREATE FUNCTION boost_settle_rows(
    event_ids uuid[], errors jsonb[], batch_ids uuid[], batch_moved integer[], batch_projects uuid[],
    batch_tenants integer[], sightings boost_sighting[], counted boost_counted[],
    letter_projects uuid[] DEFAULT NULL, letter_ids uuid[] DEFAULT NULL, types text[] DEFAULT NULL,
    handlers text[] DEFAULT NULL, codes text[] DEFAULT NULL, fields text[] DEFAULT NULL, messages text[] DEFAULT NULL,
    attempts integer[] DEFAULT NULL, topics text[] DEFAULT NULL, partitions integer[] DEFAULT NULL,
    offsets bigint[] DEFAULT NULL
) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    newest integer := boost_cutover();
    mark integer := nullif(newest, 0);
    first integer := 1;
    last integer;
    first_tenant integer := 1;
    changed integer;
    moved integer := 0;
    ids uuid[];
    projects uuid[];
    why jsonb[];
BEGIN
    FOR n IN 1 .. cardinality(batch_ids) LOOP
        last := first + batch_moved[n] - 1;
        ids := event_ids[first:last];
        projects := batch_projects[first_tenant:first_tenant + batch_tenants[n] - 1];
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
        first_tenant := first_tenant + batch_tenants[n];
    END LOOP;
    IF moved <> cardinality(event_ids) THEN
        RAISE EXCEPTION 'some of these events were moved before' USING ERRCODE = 'BST01';
    END IF;
    PERFORM boost_take_off_batches(batch_ids, batch_moved);
    IF cardinality(letter_ids) > 0 THEN
        PERFORM boost_bury(letter_projects, letter_ids, types, handlers, codes, fields, messages, attempts, topics,
            partitions, offsets);
    END IF;
    IF cardinality(sightings) > 0 THEN
        PERFORM boost_see_end_users(sightings);
    END IF;
    PERFORM boost_add_counted(counted, newest, false);
END
$$;

RESET ROLE;
