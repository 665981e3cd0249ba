-- migrate:up
alter table heartbeats add column last_event_seen bigint;

-- migrate:down
alter table heartbeats drop column last_event_seen;
