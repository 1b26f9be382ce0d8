SET LOCAL ROLE boost_owner;

-- The milliseconds since 1970 of a UUIDv7.
CREATE FUNCTION boost_id_ms(id uuid) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT ('x' || left(translate(id::text, '-', ''), 12))::bit(48)::bigint
$$;

-- Settles in one statement what it settled batch by batch, on PostgreSQL 17 and later; before, a batch is searched by halves
-- (docs/adr/0028). As in 0009_rows_in_one_list.sql: events of attempt 0 become processed, or failed where errors has
-- something, and their effects are written; all of them or nothing (BST01). event_ids are sorted, and of the first
-- batch_moved[1] in batch_ids[1], and so on; batch_projects are the projects of each batch likewise, so many as
-- batch_tenants says. Letters, where there are any, are the lists of boost_bury.
--
-- Events are locked in the order of (project, id), or where it goes batch by batch of (batch, project, id);
-- db/settlement.py has the same order for what is moved by itself.
CREATE OR REPLACE FUNCTION boost_settle_rows(
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
    last integer := cardinality(event_ids);
    first_tenant integer := 1;
    changed integer;
    moved integer := 0;
    ids uuid[];
    projects uuid[];
    why jsonb[];
BEGIN
    -- Ids that are days apart would have it look into every partition between them.
    IF current_setting('server_version_num')::integer >= 170000
        AND boost_id_ms(event_ids[last]) - boost_id_ms(event_ids[1]) < 86400000 THEN
        IF errors IS NULL THEN
            UPDATE events e SET status = 'processed', settled_at = now(), cutover = mark
            WHERE e.project_id = ANY (batch_projects) AND e.id BETWEEN event_ids[1] AND event_ids[last]
                AND e.id = ANY (event_ids) AND e.status = 'pending' AND e.attempt = 0;
        ELSE
            UPDATE events e SET
                status = CASE WHEN errors[width_bucket(e.id, event_ids)] IS NULL THEN 'processed' ELSE 'failed' END,
                error = errors[width_bucket(e.id, event_ids)], settled_at = now(), cutover = mark
            WHERE e.project_id = ANY (batch_projects) AND e.id BETWEEN event_ids[1] AND event_ids[last]
                AND e.id = ANY (event_ids) AND e.status = 'pending' AND e.attempt = 0;
        END IF;
        GET DIAGNOSTICS moved = ROW_COUNT;
    ELSE
        FOR n IN 1 .. cardinality(batch_ids) LOOP
            last := first + batch_moved[n] - 1;
            ids := event_ids[first:last];
            projects := batch_projects[first_tenant:first_tenant + batch_tenants[n] - 1];
            IF errors IS NULL THEN
                UPDATE events e SET status = 'processed', settled_at = now(), cutover = mark
                WHERE e.project_id = ANY (projects) AND e.id BETWEEN ids[1] AND ids[cardinality(ids)]
                    AND ids[width_bucket(e.id, ids)] = e.id AND e.status = 'pending' AND e.attempt = 0;
            ELSE
                why := errors[first:last];
                UPDATE events e SET
                    status = CASE WHEN why[width_bucket(e.id, ids)] IS NULL THEN 'processed' ELSE 'failed' END,
                    error = why[width_bucket(e.id, ids)], settled_at = now(), cutover = mark
                WHERE e.project_id = ANY (projects) AND e.id BETWEEN ids[1] AND ids[cardinality(ids)]
                    AND ids[width_bucket(e.id, ids)] = e.id AND e.status = 'pending' AND e.attempt = 0;
            END IF;
            GET DIAGNOSTICS changed = ROW_COUNT;
            moved := moved + changed;
            first := last + 1;
            first_tenant := first_tenant + batch_tenants[n];
        END LOOP;
    END IF;
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
