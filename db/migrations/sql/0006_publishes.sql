SET LOCAL ROLE boost_owner;

-- What sweepers published again, for the journey of an event: a row per claim of a batch (id is the batch's, attempt 0) or
-- of a retry (id is the event's). A batch that goes through at once, as nearly all do, has none: what it was sent with
-- at its commit is in its own row. Rows go after some days (db/journey.py).
CREATE TABLE event_publishes (
    id          uuid NOT NULL,
    attempt     integer NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    worker_id   uuid NOT NULL,
    PRIMARY KEY (id, attempt, created_at)
);

GRANT SELECT, INSERT, DELETE ON event_publishes TO boost_pipeline;

RESET ROLE;
