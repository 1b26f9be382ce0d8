SET LOCAL ROLE boost_owner;

-- ANALYZE reads 300 rows per unit of the largest target, and sorts them by each column: of the default of 100, 30,000 rows, their
-- payloads among them, at every chance that autovacuum has (docs/adr/0022). Statements ask for events by project and id.
ALTER TABLE events
    ALTER COLUMN id SET STATISTICS 10,
    ALTER COLUMN project_id SET STATISTICS 10,
    ALTER COLUMN event_type SET STATISTICS 10,
    ALTER COLUMN status SET STATISTICS 10,
    ALTER COLUMN attempt SET STATISTICS 10,
    ALTER COLUMN user_id SET STATISTICS 10,
    ALTER COLUMN occurred_at SET STATISTICS 10,
    ALTER COLUMN received_at SET STATISTICS 10,
    ALTER COLUMN settled_at SET STATISTICS 10,
    ALTER COLUMN anonymous_id SET STATISTICS 0,
    ALTER COLUMN session_id SET STATISTICS 0,
    ALTER COLUMN message_id SET STATISTICS 0,
    ALTER COLUMN payload SET STATISTICS 0,
    ALTER COLUMN created_at SET STATISTICS 0,
    ALTER COLUMN original_timestamp SET STATISTICS 0,
    ALTER COLUMN error SET STATISTICS 0,
    ALTER COLUMN cutover SET STATISTICS 0;

-- Keys are asked for one by one, each there once.
ALTER TABLE event_keys_a
    ALTER COLUMN key SET STATISTICS 0,
    ALTER COLUMN event_id SET STATISTICS 0,
    ALTER COLUMN created_at SET STATISTICS 0;
ALTER TABLE event_keys_b
    ALTER COLUMN key SET STATISTICS 0,
    ALTER COLUMN event_id SET STATISTICS 0,
    ALTER COLUMN created_at SET STATISTICS 0;

RESET ROLE;
