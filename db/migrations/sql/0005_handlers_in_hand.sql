SET LOCAL ROLE boost_owner;

-- Who handles a partition: a row per topic and partition, written when a worker takes the partition over and removed when
-- the worker stops in order. So a row whose worker is dead says that it died with messages in hand. suspect: the
-- messages after the committed offset are run one event at a time, apart from the worker, until those are committed.
CREATE TABLE partition_holders (
    topic       text NOT NULL,
    partition   integer NOT NULL,
    worker_id   uuid NOT NULL,
    suspect     boolean NOT NULL DEFAULT false,
    taken_at    timestamptz NOT NULL DEFAULT now(),
    created_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (topic, partition)
) WITH (fillfactor = 50);

-- Topics that no worker handles until somebody resumes them. worker_id is null when an operator paused it.
CREATE TABLE consumer_pauses (
    topic       text PRIMARY KEY,
    handler     text,
    reason      text NOT NULL CHECK (reason <> ''),
    worker_id   uuid,
    created_at  timestamptz NOT NULL DEFAULT now()
);

GRANT SELECT, INSERT, UPDATE, DELETE ON partition_holders, consumer_pauses TO boost_pipeline;

RESET ROLE;
