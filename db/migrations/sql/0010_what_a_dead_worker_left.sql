SET LOCAL ROLE boost_owner;

-- A worker died that had this batch or retry on its way, and an event of it may be why (docs/adr/0027).
ALTER TABLE event_batches ADD COLUMN suspect boolean NOT NULL DEFAULT false;
ALTER TABLE event_retries ADD COLUMN suspect boolean NOT NULL DEFAULT false;

RESET ROLE;
