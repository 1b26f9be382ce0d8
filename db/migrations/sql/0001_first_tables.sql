-- Three roles. boost_owner owns the tables and runs DDL; boost_pipeline runs intake, settlement and sweeping across
-- projects; boost_tenant runs whatever a request reads or manages, one project per transaction, behind row-level
-- security. Roles belong to the whole server: another database may be making them at this moment.
DO $$
DECLARE
    wanted text;
BEGIN
    FOREACH wanted IN ARRAY ARRAY['boost_owner', 'boost_pipeline', 'boost_tenant'] LOOP
        IF to_regrole(wanted) IS NULL THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN', wanted);
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                NULL;
            END;
        END IF;
        -- A superuser may be any role. Who made a role may grant it to itself, and since PostgreSQL 16 has to; where
        -- an administrator made the roles and granted them, there is nothing left to grant.
        IF NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
            BEGIN
                EXECUTE format('GRANT %I TO CURRENT_USER', wanted);
            EXCEPTION WHEN insufficient_privilege OR unique_violation OR internal_error THEN
                NULL;
            END;
        END IF;
    END LOOP;
END
$$;

GRANT USAGE, CREATE ON SCHEMA public TO boost_owner;
GRANT USAGE ON SCHEMA public TO boost_pipeline, boost_tenant;
GRANT SELECT ON boost_schema_version TO boost_pipeline, boost_tenant;

SET LOCAL ROLE boost_owner;

CREATE TABLE organizations (
    id          uuid PRIMARY KEY,
    name        text NOT NULL CHECK (name <> ''),
    created_at  timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE projects (
    id               uuid PRIMARY KEY,
    organization_id  uuid NOT NULL REFERENCES organizations ON DELETE CASCADE,
    name             text NOT NULL CHECK (name <> ''),
    created_at       timestamptz NOT NULL DEFAULT now(),
    UNIQUE (organization_id, name)
);

CREATE TABLE api_keys (
    id            uuid PRIMARY KEY,
    project_id    uuid NOT NULL REFERENCES projects ON DELETE CASCADE,
    key_hash      bytea NOT NULL UNIQUE CHECK (octet_length(key_hash) = 32),
    prefix        text NOT NULL,
    name          text NOT NULL CHECK (name <> ''),
    scopes        text[] NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT now(),
    last_used_at  timestamptz,
    revoked_at    timestamptz
);
CREATE INDEX api_keys_of_project ON api_keys (project_id, created_at);

-- The id is a hash of (project, user id): see db/end_users.py. trait_versions holds, for each key of traits, the
-- (occurred_at, event id) that set it, as text that sorts.
CREATE TABLE end_users (
    project_id      uuid NOT NULL REFERENCES projects ON DELETE CASCADE,
    id              uuid NOT NULL,
    user_id         text NOT NULL,
    traits          jsonb NOT NULL DEFAULT '{}',
    trait_versions  jsonb NOT NULL DEFAULT '{}',
    first_seen_at   timestamptz NOT NULL,
    last_seen_at    timestamptz NOT NULL,
    signed_up_at    timestamptz,
    logins          bigint NOT NULL DEFAULT 0,
    created_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (project_id, id)
) WITH (fillfactor = 70);

-- Partitions are made by db/partitions.py, a day of UUIDv7 time each. No index names status: settling an event
-- stays a HOT update. received_at is the database's clock at the commit.
CREATE TABLE events (
    id            uuid NOT NULL,
    project_id    uuid NOT NULL REFERENCES projects ON DELETE CASCADE,
    event_type    text NOT NULL,
    status        text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'processed', 'failed')),
    attempt       integer NOT NULL DEFAULT 0,
    user_id       text,
    anonymous_id  text,
    session_id    text,
    message_id    text,
    payload       jsonb NOT NULL,
    occurred_at   timestamptz NOT NULL,
    received_at   timestamptz NOT NULL DEFAULT now(),
    created_at    timestamptz NOT NULL DEFAULT now(),
    settled_at    timestamptz,
    error         jsonb,
    PRIMARY KEY (project_id, id)
) PARTITION BY RANGE (id);

-- What is not settled yet: one row per commit, gone when its last event settles. It owns the events with attempt 0
-- whose ids lie in [id, id + 65535] (boost_streams/event_id.py). last_published_at is null when nobody has it on the
-- broker. (worker_id, seq) tells which publishes of a dead worker are unaccounted for.
CREATE TABLE event_batches (
    id                 uuid PRIMARY KEY,
    worker_id          uuid NOT NULL,
    seq                bigint NOT NULL,
    project_ids        uuid[] NOT NULL,
    first_id           uuid NOT NULL,
    last_id            uuid NOT NULL,
    unsettled          integer NOT NULL CHECK (unsettled >= 0),
    due_at             timestamptz NOT NULL,
    last_published_at  timestamptz DEFAULT now(),
    publish_count      integer NOT NULL DEFAULT 1,
    created_at         timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 2000);
CREATE INDEX event_batches_due ON event_batches (due_at);
CREATE INDEX event_batches_unpublished ON event_batches (due_at) WHERE last_published_at IS NULL;

-- Events that are to be handed over again, each once per attempt. was_failed: it had failed, and was counted so,
-- before somebody asked for another try; settling it takes that count back.
CREATE TABLE event_retries (
    project_id         uuid NOT NULL REFERENCES projects ON DELETE CASCADE,
    event_id           uuid NOT NULL,
    attempt            integer NOT NULL,
    was_failed         boolean NOT NULL DEFAULT false,
    worker_id          uuid,
    seq                bigint,
    reason             text,
    due_at             timestamptz NOT NULL,
    last_published_at  timestamptz,
    publish_count      integer NOT NULL DEFAULT 0,
    created_at         timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (project_id, event_id)
) WITH (fillfactor = 70);
CREATE INDEX event_retries_due ON event_retries (due_at);

-- messageId: two generations of keys, looked up in both, inserted into the current one (db/intake.py).
CREATE TABLE event_keys_a (
    key         uuid PRIMARY KEY,
    event_id    uuid NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE event_keys_b (
    key         uuid PRIMARY KEY,
    event_id    uuid NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE event_key_generation (
    only_row    boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    current     "char" NOT NULL CHECK (current IN ('a', 'b')),
    created_at  timestamptz NOT NULL DEFAULT now()
);
INSERT INTO event_key_generation (current) VALUES ('a');

-- Counters of every metric. key is a hash of the dimensions (db/rollups.py), so that they may be long.
CREATE TABLE rollups (
    project_id    uuid NOT NULL REFERENCES projects ON DELETE CASCADE,
    metric        text NOT NULL,
    bucket_start  timestamptz NOT NULL,
    key           uuid NOT NULL,
    dimensions    text[] NOT NULL,
    count         bigint NOT NULL,
    amount        numeric NOT NULL DEFAULT 0,
    created_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (project_id, metric, bucket_start, key)
) WITH (fillfactor = 70);

-- Workers that are alive, and up to which of their publishes everything is accounted for.
CREATE TABLE workers (
    id             uuid PRIMARY KEY,
    host           text NOT NULL,
    url            text NOT NULL,
    roles          text[] NOT NULL,
    published_seq  bigint NOT NULL DEFAULT 0,
    heartbeat_at   timestamptz NOT NULL DEFAULT now(),
    created_at     timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);

-- How far consumers are: everything published before passed_at on this partition has been taken and acknowledged.
CREATE TABLE consumer_progress (
    topic        text NOT NULL,
    partition    integer NOT NULL,
    worker_id    uuid NOT NULL,
    passed_at    timestamptz NOT NULL,
    caught_up    boolean NOT NULL,
    recorded_at  timestamptz NOT NULL DEFAULT now(),
    created_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (topic, partition)
) WITH (fillfactor = 50);

-- Per key of traits the newest version wins, whatever the order of arrival.
CREATE FUNCTION boost_merge_traits(old jsonb, old_versions jsonb, new jsonb, new_versions jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(jsonb_object_agg(k, CASE
        WHEN coalesce(old_versions ->> k, '') COLLATE "C" >= coalesce(new_versions ->> k, '') COLLATE "C"
        THEN old -> k ELSE new -> k END), '{}')
    FROM (SELECT jsonb_object_keys(old_versions) UNION SELECT jsonb_object_keys(new_versions)) AS keys (k)
$$;
CREATE FUNCTION boost_merge_versions(old_versions jsonb, new_versions jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(jsonb_object_agg(k, CASE
        WHEN coalesce(old_versions ->> k, '') COLLATE "C" >= coalesce(new_versions ->> k, '') COLLATE "C"
        THEN old_versions ->> k ELSE new_versions ->> k END), '{}')
    FROM (SELECT jsonb_object_keys(old_versions) UNION SELECT jsonb_object_keys(new_versions)) AS keys (k)
$$;

-- Row-level security. FORCE binds the owner as well; the pipeline's policy is constant and costs nothing.
DO $$
DECLARE
    tenant_table text;
BEGIN
    FOREACH tenant_table IN ARRAY ARRAY['api_keys', 'end_users', 'events', 'event_retries', 'rollups'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', tenant_table);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', tenant_table);
        EXECUTE format('CREATE POLICY across_projects ON %I TO boost_pipeline USING (true) WITH CHECK (true)', tenant_table);
        EXECUTE format('CREATE POLICY one_project ON %I TO boost_tenant '
            'USING (project_id = nullif(current_setting(''boost.project_id'', true), '''')::uuid)', tenant_table);
    END LOOP;
END
$$;
ALTER TABLE projects ENABLE ROW LEVEL SECURITY;
ALTER TABLE projects FORCE ROW LEVEL SECURITY;
CREATE POLICY across_projects ON projects TO boost_pipeline USING (true) WITH CHECK (true);
CREATE POLICY one_project ON projects TO boost_tenant
    USING (id = nullif(current_setting('boost.project_id', true), '')::uuid);

GRANT SELECT, INSERT, UPDATE, DELETE ON organizations, projects, api_keys, end_users, events, event_batches,
    event_retries, event_keys_a, event_keys_b, event_key_generation, rollups, workers, consumer_progress
    TO boost_pipeline;
GRANT TRUNCATE ON event_keys_a, event_keys_b TO boost_pipeline;
GRANT SELECT ON projects, events, end_users, rollups, event_retries TO boost_tenant;
GRANT UPDATE (status, attempt, settled_at, error) ON events TO boost_tenant;
GRANT INSERT ON event_retries TO boost_tenant;
GRANT SELECT, INSERT ON api_keys TO boost_tenant;
GRANT UPDATE (revoked_at) ON api_keys TO boost_tenant;

RESET ROLE;
