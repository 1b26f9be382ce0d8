SET LOCAL ROLE boost_owner;

-- Days were vacuumed without a pause. After a checkpoint each page that a vacuum marks goes into the log as a whole: 137 MB in
-- 0.4 s, for which every commit waited (docs/adr/0022). From now on the server's own settings hold.
DO $$
DECLARE
    day regclass;
BEGIN
    FOR day IN SELECT inhrelid::regclass FROM pg_inherits WHERE inhparent = 'events'::regclass ORDER BY inhrelid LOOP
        EXECUTE format('ALTER TABLE %s RESET (autovacuum_vacuum_cost_delay)', day);
    END LOOP;
END
$$;

RESET ROLE;
