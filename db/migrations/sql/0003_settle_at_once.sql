SET LOCAL ROLE boost_owner;

-- Takes settled events off their batches; a batch whose last event settles goes away. Batches in the order of their ids.
CREATE FUNCTION boost_take_off_batches(batch_ids uuid[], moved integer[]) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    WITH locked AS (
        SELECT b.id, b.unsettled, t.moved FROM event_batches b
        JOIN unnest(batch_ids, moved) AS t (id, moved) ON t.id = b.id
        ORDER BY b.id FOR UPDATE OF b
    ), gone AS (
        DELETE FROM event_batches b USING locked l WHERE b.id = l.id AND l.unsettled <= l.moved
    )
    UPDATE event_batches b SET unsettled = b.unsettled - l.moved FROM locked l
    WHERE b.id = l.id AND l.unsettled > l.moved;
END
$$;

-- Merges sightings into end_users. The lists come in the order of (project, id): that is the order of the locks.
CREATE FUNCTION boost_see_end_users(
    projects uuid[], ids uuid[], names text[], new_traits jsonb[], new_versions jsonb[], first_times timestamptz[],
    last_times timestamptz[], sign_ups timestamptz[], new_logins bigint[]
) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    INSERT INTO end_users AS u
        (project_id, id, user_id, traits, trait_versions, first_seen_at, last_seen_at, signed_up_at, logins)
    SELECT * FROM unnest(projects, ids, names, new_traits, new_versions, first_times, last_times, sign_ups, new_logins)
    ON CONFLICT (project_id, id) DO UPDATE SET
        traits = boost_merge_traits(u.traits, u.trait_versions, excluded.traits, excluded.trait_versions),
        trait_versions = boost_merge_versions(u.trait_versions, excluded.trait_versions),
        first_seen_at = least(u.first_seen_at, excluded.first_seen_at),
        last_seen_at = greatest(u.last_seen_at, excluded.last_seen_at),
        signed_up_at = least(u.signed_up_at, excluded.signed_up_at),
        logins = u.logins + excluded.logins;
END
$$;

-- Adds to rollups. The lists come in the order of the primary key: that is the order of the locks. An entry of
-- all_dimensions is an array written as text (arrays of arrays must have the same length everywhere); a missing
-- amount is 0.
CREATE FUNCTION boost_add_rollups(
    projects uuid[], metrics text[], starts timestamptz[], keys uuid[], all_dimensions text[], counts bigint[],
    amounts numeric[]
) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    INSERT INTO rollups AS r (project_id, metric, bucket_start, key, dimensions, count, amount)
    SELECT t.project_id, t.metric, t.bucket_start, t.key, t.dimensions::text[], t.count, coalesce(t.amount, 0)
    FROM unnest(projects, metrics, starts, keys, all_dimensions, counts, amounts)
        AS t (project_id, metric, bucket_start, key, dimensions, count, amount)
    ON CONFLICT (project_id, metric, bucket_start, key) DO UPDATE SET
        count = r.count + excluded.count, amount = r.amount + excluded.amount;
END
$$;

-- Settles a batch in one call: events of attempt 0 become processed, or failed where errors has something, and their
-- effects are written. Effects were added up before anybody knew which events move, so all of them move or nothing
-- happens: BST01 says that some had been moved before. Locks: events, batches, end users, rollups, each list sorted.
CREATE FUNCTION boost_settle(
    event_projects uuid[], event_ids uuid[], errors jsonb[],
    batch_ids uuid[], batch_moved integer[],
    user_projects uuid[], user_keys uuid[], user_names text[], traits jsonb[], versions jsonb[],
    first_times timestamptz[], last_times timestamptz[], sign_ups timestamptz[], logins bigint[],
    rollup_projects uuid[], metrics text[], starts timestamptz[], rollup_keys uuid[], all_dimensions text[],
    counts bigint[], amounts numeric[]
) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    moved integer;
BEGIN
    -- No bounds of the ids: with them a plan may read the range first, and the list again for every row of it.
    UPDATE events e SET
        status = CASE WHEN t.error IS NULL THEN 'processed' ELSE 'failed' END, error = t.error, settled_at = now()
    FROM unnest(event_projects, event_ids, errors) AS t (project_id, id, error)
    WHERE e.project_id = t.project_id AND e.id = t.id AND e.status = 'pending' AND e.attempt = 0;
    GET DIAGNOSTICS moved = ROW_COUNT;
    IF moved <> cardinality(event_ids) THEN
        RAISE EXCEPTION 'some of these events were moved before' USING ERRCODE = 'BST01';
    END IF;
    PERFORM boost_take_off_batches(batch_ids, batch_moved);
    IF cardinality(user_keys) > 0 THEN
        PERFORM boost_see_end_users(
            user_projects, user_keys, user_names, traits, versions, first_times, last_times, sign_ups, logins);
    END IF;
    PERFORM boost_add_rollups(rollup_projects, metrics, starts, rollup_keys, all_dimensions, counts, amounts);
END
$$;

RESET ROLE;
