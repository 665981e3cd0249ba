-- As in WalT 8.3: whether a node is up is asked, not stored.
-- probe: select to_regclass('nodes') is not null and not exists (select from pg_attribute where attrelid = to_regclass('nodes') and attname = 'booted' and not attisdropped)
-- migrate:up
alter table nodes drop column booted;

-- migrate:down
alter table nodes add column booted boolean default false;
