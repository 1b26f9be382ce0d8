SET LOCAL ROLE boost_owner;

-- What a foreign key promised, once per statement in place of once per event (docs/adr/0029): an event's project is there,
-- and cannot go before the event is committed; who deletes a project deletes its events.

-- Locks the projects of the events that were inserted, as a foreign key does: a deletion waits for their commit, and who
-- comes after it finds no project.
CREATE FUNCTION boost_hold_projects() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    named uuid[];
    held bigint;
BEGIN
    SELECT array_agg(DISTINCT s.project_id) INTO named FROM stored s;
    WITH locked AS (
        SELECT p.id FROM projects p WHERE p.id = ANY (named) ORDER BY p.id FOR KEY SHARE
    )
    SELECT count(*) INTO held FROM locked;
    IF held <> coalesce(cardinality(named), 0) THEN
        RAISE EXCEPTION 'an event belongs to a project that does not exist'
            USING ERRCODE = 'foreign_key_violation', TABLE = 'events', CONSTRAINT = 'events_hold_projects';
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER events_hold_projects AFTER INSERT ON events
    REFERENCING NEW TABLE AS stored FOR EACH STATEMENT EXECUTE FUNCTION boost_hold_projects();

-- The project's row is locked by then: what was committed before is seen by this, and goes with it. Before and not after the
-- row: from PostgreSQL 18 on, what a cascade from organizations does afterwards is bound by the policies of events.
CREATE FUNCTION boost_delete_events_of_project() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM events WHERE project_id = OLD.id;
    RETURN OLD;
END
$$;
CREATE TRIGGER projects_delete_events BEFORE DELETE ON projects
    FOR EACH ROW EXECUTE FUNCTION boost_delete_events_of_project();

ALTER TABLE events DROP CONSTRAINT events_project_id_fkey;

RESET ROLE;
