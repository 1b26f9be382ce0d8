SET LOCAL ROLE boost_owner;

-- What the client's clock said, where it was so far ahead that occurred_at was set to the time of receipt instead.
ALTER TABLE events ADD COLUMN original_timestamp timestamptz;

-- Which generation of messageId keys is current, read after the lock that keeps it so is held. In one plain statement
-- the snapshot would be older than the lock: a commit that waited for a swap would still see the old generation.
CREATE FUNCTION boost_current_key_generation(generation_lock bigint) RETURNS "char"
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    generation "char";
BEGIN
    PERFORM pg_advisory_xact_lock_shared(generation_lock);
    SELECT current INTO generation FROM event_key_generation;
    RETURN generation;
END
$$;

RESET ROLE;
