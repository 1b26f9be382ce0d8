SET LOCAL ROLE boost_owner;

-- What the client's clock said, where it was so far ahead that occurred_at was set to the time of receipt instead.
ALTER TABLE events ADD COLUMN original_timestamp timestamptz;

-- A project may keep its events for a shorter time than RETENTION_DAYS says.
ALTER TABLE projects ADD COLUMN retention_days integer CHECK (retention_days > 0);

-- Claims the messageId keys of a commit (null where an event has none) and returns those that are known already, with
-- the event that carried them first.
--
-- Each statement sees what was committed before it began, so the generation is read after the lock that keeps it
-- current is held: in one plain statement the snapshot would be older than the lock, and a commit that waited for a
-- swap would still use the old generation. Keys are inserted in order, so that commits with keys in common wait for
-- each other and never in a circle. ON CONFLICT costs a third more than a plain INSERT (docs/adr/0010), so it is kept
-- for commits in which a key is known.
CREATE FUNCTION boost_claim_keys(generation_lock bigint, keys uuid[], ids uuid[])
RETURNS TABLE (known_key uuid, first_id uuid)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    generation "char";
    claimed integer;
BEGIN
    PERFORM pg_advisory_xact_lock_shared(generation_lock);
    SELECT current INTO generation FROM event_key_generation;
    BEGIN
        IF generation = 'a' THEN
            INSERT INTO event_keys_a (key, event_id)
            SELECT t.key, t.id FROM unnest(keys, ids) AS t (key, id)
            WHERE t.key IS NOT NULL AND NOT EXISTS (SELECT 1 FROM event_keys_b b WHERE b.key = t.key)
            ORDER BY t.key;
        ELSE
            INSERT INTO event_keys_b (key, event_id)
            SELECT t.key, t.id FROM unnest(keys, ids) AS t (key, id)
            WHERE t.key IS NOT NULL AND NOT EXISTS (SELECT 1 FROM event_keys_a a WHERE a.key = t.key)
            ORDER BY t.key;
        END IF;
        GET DIAGNOSTICS claimed = ROW_COUNT;
    EXCEPTION WHEN unique_violation THEN
        IF generation = 'a' THEN
            INSERT INTO event_keys_a (key, event_id)
            SELECT t.key, t.id FROM unnest(keys, ids) AS t (key, id)
            WHERE t.key IS NOT NULL AND NOT EXISTS (SELECT 1 FROM event_keys_b b WHERE b.key = t.key)
            ORDER BY t.key ON CONFLICT (key) DO NOTHING;
        ELSE
            INSERT INTO event_keys_b (key, event_id)
            SELECT t.key, t.id FROM unnest(keys, ids) AS t (key, id)
            WHERE t.key IS NOT NULL AND NOT EXISTS (SELECT 1 FROM event_keys_a a WHERE a.key = t.key)
            ORDER BY t.key ON CONFLICT (key) DO NOTHING;
        END IF;
        GET DIAGNOSTICS claimed = ROW_COUNT;
    END;
    IF claimed < num_nonnulls(VARIADIC keys) THEN
        RETURN QUERY
        SELECT k.key, k.event_id
        FROM unnest(keys, ids) AS t (key, id)
        CROSS JOIN LATERAL (
            SELECT a.key, a.event_id FROM event_keys_a a WHERE a.key = t.key
            UNION ALL
            SELECT b.key, b.event_id FROM event_keys_b b WHERE b.key = t.key
        ) k
        WHERE k.event_id <> t.id;
    END IF;
END
$$;

RESET ROLE;
