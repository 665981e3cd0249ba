-- As in WalT 10: times of logs have a zone, and a cable has a time at which it was seen last.
-- note: rewrites the table of the logs, which takes its time
-- probe: select exists (select from pg_attribute where attrelid = to_regclass('topology') and attname = 'last_seen' and not attisdropped)
-- migrate:up
alter table logs alter column timestamp type timestamptz;
alter table topology add column last_seen timestamptz;
update topology set last_seen = now();

-- migrate:down
alter table topology drop column last_seen;
alter table logs alter column timestamp type timestamp;
